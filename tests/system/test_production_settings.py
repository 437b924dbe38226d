"""The demo site's settings in production: over TLS, behind nginx with TLS and without, and in development."""

from __future__ import annotations

import http.client
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.services import missing, nginx
from tests.support.services.nginx import NginxServer
from tests.support.sites import PYTHON, ROOT, Site

pytestmark = pytest.mark.once


def manage(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run manage.py with the demo site's own settings, and with no other environment variables than these."""
    given = {"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "SECRET_KEY": secrets.token_urlsafe(50), **env}
    return subprocess.run([PYTHON, "manage.py", *args], env=given, cwd=ROOT, text=True, capture_output=True)


def test_deployment_checks_are_clean_in_production(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'db.sqlite3'}"
    checked = manage("check", "--deploy", "--fail-level", "WARNING", DATABASE_URL=url)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == "System check identified no issues (0 silenced).\n"


def test_plain_http_is_a_choice_and_checks_warn(tmp_path: Path) -> None:
    checked = manage("check", "--deploy", HTTPS="false", DATABASE_URL=f"sqlite:///{tmp_path / 'db.sqlite3'}")
    for code in ("security.W004", "security.W008", "security.W012", "security.W016"):
        assert code in checked.stderr


def test_development_needs_no_tls() -> None:
    names = ["SECURE_SSL_REDIRECT", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_PROXY_SSL_HEADER"]
    code = f"from django.conf import settings; print(*(getattr(settings, name) for name in {names}))"
    assert manage("shell", "--no-imports", "-c", code, DEBUG="true").stdout == "False False False None\n"


@pytest.fixture
def behind_nginx(request: pytest.FixtureRequest, sqlite_site: Site) -> Iterator[NginxServer]:
    """nginx with and without TLS, in front of a server with the parametrized environment variables."""
    if nginx.program() is None:
        missing("nginx", "nginx")
    server = sqlite_site.serve(**request.param)
    proxy = NginxServer([server.port] * 4, secure=True).start()
    yield proxy
    proxy.remove()


@pytest.mark.parametrize("behind_nginx", [{"HTTPS": "true", "HSTS_SECONDS": "600"}], indirect=True)
def test_http_is_redirected_once_and_https_answers(behind_nginx: NginxServer) -> None:
    secure = f"https://127.0.0.1:{behind_nginx.secure_port}"
    with httpx.Client(verify=False, timeout=60) as client:
        plain = client.get(f"http://127.0.0.1:{behind_nginx.port}/admin/login/")
        assert (plain.status_code, plain.headers["Location"]) == (
            301,
            f"https://127.0.0.1:{behind_nginx.port}/admin/login/",
        )
        page = client.get(f"{secure}/admin/login/")
        assert page.status_code == 200  # no redirect to itself: nginx reports TLS to the server
        assert page.headers["Strict-Transport-Security"] == "max-age=600; includeSubDomains; preload"
        assert page.headers["Referrer-Policy"] == "same-origin"
        [cookie] = page.headers.get_list("Set-Cookie")
        assert cookie.startswith("csrftoken=")
        assert "; Secure" in cookie
        form = {"username": "nobody", "password": "x", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
        refused = client.post(f"{secure}/admin/login/", data=form, headers={"Referer": f"{secure}/admin/login/"})
        assert refused.status_code == 200  # a wrong password, and not a failed CSRF check
        with client.stream("GET", f"{secure}/events/news/") as stream:
            assert stream.status_code == 200


@pytest.mark.parametrize("behind_nginx", [{"HTTPS": "true"}], indirect=True)
def test_client_cannot_claim_tls_through_nginx(behind_nginx: NginxServer) -> None:
    claimed = httpx.get(f"http://127.0.0.1:{behind_nginx.port}/", headers={"X-Forwarded-Proto": "https"})
    assert claimed.status_code == 301


@pytest.mark.parametrize("behind_nginx", [{"HTTPS": "false"}], indirect=True)
def test_plain_http_behind_nginx_is_not_redirected(behind_nginx: NginxServer) -> None:
    page = httpx.get(f"http://127.0.0.1:{behind_nginx.port}/admin/login/", timeout=60)
    assert page.status_code == 200
    assert "Strict-Transport-Security" not in page.headers
    assert "Secure" not in page.headers["Set-Cookie"]


@pytest.mark.parametrize("server", ["uvicorn", "granian", "daphne", "hypercorn"])
def test_each_server_learns_of_tls_from_the_proxy(sqlite_site: Site, server: str) -> None:
    running = sqlite_site.serve(server, HTTPS="true")
    for scheme, status in [("https", 200), ("http", 301)]:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        connection.request("GET", "/", headers={"X-Forwarded-Proto": scheme})
        assert connection.getresponse().status == status
        connection.close()


def test_health_is_answered_over_plain_http(sqlite_site: Site) -> None:
    """The health checks of the image and of load balancers do not go through the proxy."""
    assert sqlite_site.serve(HTTPS="true").json("/api/health/ready")["status"] == "ok"
