"""What the doctor says about the settings, the application and runserver. It is right on a good site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.core.management.commands.runserver import Command as Runserver

from streams.doctor import application, site
from streams.doctor.application import check_application, check_runserver
from streams.doctor.site import check_site
from tests.doctor.support import complaints
from tests.support.sites import ROOT

database = pytest.mark.django_db(transaction=True)


@database
def test_good_site_has_no_complaint() -> None:
    findings = list(check_site())
    assert [each for each in complaints(findings) if each[1] not in ("SQLite", "clock")] == []
    checked = [each.check for each in findings]
    for check in ("settings", "application", "runserver", "database", "migrations", "clock", "pruning", "notifier"):
        assert check in checked


# --- System checks ----------------------------------------------------------------------------------------------------


@database
def test_wrong_settings_are_reported_once(settings: Any) -> None:
    settings.STREAMS = {"HEARTBEAT_SECOND": 3, "PRUNE_SECONDS": -1}
    findings = [each for each in check_site() if each.check == "settings"]
    texts = " ".join(each.text for each in findings)
    assert "unknown key 'HEARTBEAT_SECOND'. (streams.E002)" in texts
    assert "STREAMS['PRUNE_SECONDS'] must be a number above 0, or None; got -1. (streams.E003)" in texts
    assert findings[0].remedy == "Did you mean 'HEARTBEAT_SECONDS'?"
    assert "PRUNE_SECONDS" in findings[-1].text  # the check of the pruning, which could not be made


@database
def test_broken_urls_are_reported(settings: Any) -> None:
    settings.ROOT_URLCONF = "no.such.urls"
    found = [each for each in check_site() if each.level.name == "PROBLEM" and each.check != "SQLite"]
    assert [each.check for each in found] == ["settings", "application"]
    assert all("No module named 'no'" in each.text and "`manage.py check`" in each.remedy for each in found)


@database
def test_complaint_of_a_system_check_is_not_contradicted(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    found = [each for each in check_site() if each.check == "notifier"]
    assert [each.level.name for each in found] == ["WARNING"]
    assert "(streams.W002)" in found[0].text


@pytest.mark.once
def test_silenced_system_check_is_not_reported(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    settings.SILENCED_SYSTEM_CHECKS = ["streams.W002"]
    assert [each.level.name for each in site._system_checks()] == ["OK"]


@pytest.mark.once
def test_only_system_checks_of_streams_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor checks the server itself."""
    messages = [checks.Warning("a", id="shop.W001"), checks.Warning("b", id="streams.W008"), checks.Warning("c")]
    messages.append(checks.Error("d", hint="e", id="streams_relay.E001"))
    monkeypatch.setattr(checks, "run_checks", lambda tags=None, **kwargs: [] if tags else messages)
    [found] = site._system_checks()
    assert (found.level.name, found.text, found.remedy) == ("PROBLEM", "d (streams_relay.E001)", "e")


@pytest.mark.once
def test_failing_system_check_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**kwargs: Any) -> None:
        raise ImportError("No module named 'shop'")

    monkeypatch.setattr(checks, "run_checks", fail)
    [found] = site._system_checks()
    assert "No module named 'shop'" in found.text
    assert "`manage.py check`" in found.remedy


@pytest.mark.once
def test_names_of_the_checks_are_documented() -> None:
    """The table of docs/operations/doctor.md has each name that is used in the source, and no other."""
    source = "".join(path.read_text() for path in (ROOT / "streams" / "doctor").glob("*.py"))
    used = set(re.findall(r'(?:ok|warning|problem)\(\s*"([^"]+)"', source)) | set(site.SUBJECTS.values())
    page = Path(ROOT / "docs" / "operations" / "doctor.md").read_text()
    assert set(re.findall(r"^\| `([^`-][^`]*)`", page, re.MULTILINE)) == used


# --- The application --------------------------------------------------------------------------------------------------


async def silent(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await receive()  # never returns


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("no")


async def login(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 302, "headers": [(b"Location", b"/login/?next=/events/")]})
    await send({"type": "http.response.body"})


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


HERE = "tests.doctor.test_site"
APPLICATIONS = [
    (None, "is not set", "`ASGI_APPLICATION ="),
    ("no.such.application", "cannot be imported", "get_asgi_application"),
    (f"{HERE}.wsgi", "did not answer", "`uvicorn tests.doctor.test_site:wsgi`"),
    (f"{HERE}.broken", "did not answer a request for /events/ (RuntimeError: no)", "`uvicorn"),
    (f"{HERE}.silent", "did not answer a request for /events/ within", "`uvicorn"),
    (f"{HERE}.login", "302 with a redirect to /login/?next=/events/", "middleware"),
]


@pytest.mark.once
@pytest.mark.parametrize(("dotted", "text", "remedy"), APPLICATIONS)
def test_application_that_fails_is_found(
    settings: Any, monkeypatch: pytest.MonkeyPatch, dotted: str | None, text: str, remedy: str
) -> None:
    monkeypatch.setattr(application, "SECONDS", 0.2)
    settings.ASGI_APPLICATION = dotted
    [found] = check_application()
    assert found.level.name == "PROBLEM"
    assert text in found.text
    assert remedy in found.remedy


@pytest.mark.once
def test_application_answers_behind_restrictions(settings: Any) -> None:
    """ALLOWED_HOSTS, TLS and logins do not hide the stream view from the doctor."""
    settings.ALLOWED_HOSTS = [".example.com"]
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    [found] = check_application()
    assert (found.level.name, found.text) == ("OK", "project.asgi.application answers. The streams are at /events/.")


@pytest.mark.once
def test_missing_mount_is_a_warning(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.admin.urls_without_streams"
    [found] = check_application()
    assert found.level.name == "WARNING"
    assert 'path("events/", include("streams.urls"))' in found.remedy


# --- runserver --------------------------------------------------------------------------------------------------------


@pytest.mark.once
def test_runserver_of_daphne_is_good() -> None:
    [found] = check_runserver()
    assert (found.level.name, found.text) == ("OK", "`manage.py runserver` is the command of daphne.")


@pytest.mark.once
@pytest.mark.parametrize("app", ["django.core", "django.contrib.staticfiles", "whitenoise.runserver_nostatic"])
def test_runserver_under_wsgi_is_found(monkeypatch: pytest.MonkeyPatch, app: str) -> None:
    monkeypatch.setattr(application, "get_commands", lambda: {"runserver": app})
    if app.startswith("whitenoise"):

        class Wrapper(Runserver):
            __module__ = "whitenoise.runserver_nostatic.management.commands.runserver"

        monkeypatch.setattr(application, "get_commands", lambda: {"runserver": Wrapper()})
    [found] = check_runserver()
    assert found.level.name == "WARNING"
    assert '"daphne" as the first of INSTALLED_APPS' in found.remedy
