"""Event streams under WSGI are refused at once with the remedy, so they do not block a worker."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.services import free_port
from tests.support.sites import PYTHON, Server, Site, copy_sqlite
from tests.system.servers.support import MIDDLEWARE

pytestmark = pytest.mark.once

SERVE_BY_WSGI = """
import sys
from wsgiref.simple_server import make_server
from django.core.wsgi import get_wsgi_application
make_server("127.0.0.1", int(sys.argv[1]), get_wsgi_application()).serve_forever()
"""


@pytest.fixture(scope="module", params=["alone", "middleware"])
def wsgi_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path
) -> Iterator[Server]:
    """Start a server with one worker and one thread, so that a blocked request would block all others."""
    folder = tmp_path_factory.mktemp("site")
    copy_sqlite(migrated_sqlite, folder / "db.sqlite3")
    site = Site(f"sqlite:///{folder / 'db.sqlite3'}", folder)
    env = {**site.env, "TEST_MIDDLEWARE": json.dumps(MIDDLEWARE if request.param == "middleware" else [])}
    port = free_port()
    server = Server([PYTHON, "-c", SERVE_BY_WSGI, str(port)], port, env, folder / "wsgiref.log")
    yield server.start()
    server.stop()


def get_error(server: Server, path: str) -> tuple[int, str, str]:
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"{server.url}{path}", timeout=30)
    with raised.value as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_streams_view_is_refused(wsgi_server: Server) -> None:
    for _ in range(3):
        status, content_type, text = get_error(wsgi_server, "/events/news/")
        assert status == 500
        assert content_type == "application/json"
        error = json.loads(text)["error"]
        assert error["code"] == "asgi-required"
        assert "Serve the site's `asgi.application` with daphne" in error["message"]
    assert wsgi_server.json("/test/response/quick/") == {}


@pytest.mark.parametrize("path", ["endless/?key=x", "numbers/", "sync-numbers/", "held/?key=x", "sync-held/?key=x"])
def test_response_of_own_view_is_refused(wsgi_server: Server, path: str) -> None:
    for _ in range(3):
        status, content_type, text = get_error(wsgi_server, f"/test/response/{path}")
        assert status == 500
        assert content_type == "text/plain; charset=utf-8"
        assert "Serve the site's `asgi.application` with daphne" in text
    assert wsgi_server.json("/test/response/quick/") == {}
    log = wsgi_server.log.read_text()
    assert "Event streams need ASGI" in log
    assert "Traceback" not in log
