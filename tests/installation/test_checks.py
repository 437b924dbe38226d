"""The checks of the development server. Each test compares the whole list of messages."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, Warning, run_checks
from django.core.management import get_commands
from django.test import override_settings

pytestmark = pytest.mark.once

DAPHNE_LAST = [*(app for app in settings.INSTALLED_APPS if app != "daphne"), "daphne"]
WITHOUT_DAPHNE = DAPHNE_LAST[:-1]


def messages(*, debug: bool = True, **changed: Any) -> list[CheckMessage]:
    get_commands.cache_clear()
    try:
        with override_settings(DEBUG=debug, **changed):
            return [message for message in run_checks(databases=[]) if str(message.id) in NUMBERS]
    finally:
        get_commands.cache_clear()


# With DEBUG, other apps report that debugging is on.
NUMBERS = ("streams.W008", "streams.W009", "streams.W010")

SERVES_WSGI = Warning(
    "`manage.py runserver` serves WSGI. Streams need ASGI: it answers them with an error.",
    hint="Run `pip install daphne`, put 'daphne' at the top of INSTALLED_APPS, and set ASGI_APPLICATION = "
    "'project.asgi.application'. `manage.py streams_init` shows these changes. If you develop with another ASGI "
    "server, for example with `uvicorn --reload project.asgi:application`, add streams.W008 to "
    "SILENCED_SYSTEM_CHECKS.",
    id="streams.W008",
)


def test_daphne_with_its_application_passes() -> None:
    assert messages() == []


@pytest.mark.parametrize("apps", [WITHOUT_DAPHNE, DAPHNE_LAST], ids=["without daphne", "after staticfiles"])
def test_w008_runserver_of_django(apps: list[str]) -> None:
    assert messages(INSTALLED_APPS=apps) == [SERVES_WSGI]


def test_w008_names_the_neighbor_of_the_wsgi_module() -> None:
    assert hint_without(WSGI_APPLICATION="config.wsgi.application") == "'config.asgi.application'"


def test_w008_names_the_neighbor_of_the_urls() -> None:
    assert hint_without(WSGI_APPLICATION=None, ROOT_URLCONF="tests.support.urls") == "'tests.support.asgi.application'"


def hint_without(**changed: Any) -> str:
    """Return the path that the warning proposes to a site without daphne and without ASGI_APPLICATION."""
    with override_settings(**changed):
        del settings.ASGI_APPLICATION
        [message] = messages(INSTALLED_APPS=WITHOUT_DAPHNE)
    return str(message.hint).partition("ASGI_APPLICATION = ")[2].split(". ")[0]


def test_wrapped_runserver_of_daphne_passes() -> None:
    """whitenoise's command is a subclass of the next one in INSTALLED_APPS."""
    sys.modules.pop("whitenoise.runserver_nostatic.management.commands.runserver", None)
    assert messages(INSTALLED_APPS=["whitenoise.runserver_nostatic", *settings.INSTALLED_APPS]) == []


def test_w008_wrapped_runserver_of_django() -> None:
    sys.modules.pop("whitenoise.runserver_nostatic.management.commands.runserver", None)
    assert messages(INSTALLED_APPS=["whitenoise.runserver_nostatic", *WITHOUT_DAPHNE]) == [SERVES_WSGI]
    sys.modules.pop("whitenoise.runserver_nostatic.management.commands.runserver")


@override_settings()
def test_w009_daphne_without_its_application() -> None:
    del settings.ASGI_APPLICATION
    assert messages() == [
        Warning(
            "ASGI_APPLICATION is not set. daphne's `runserver` does not start without it.",
            hint="Set ASGI_APPLICATION = 'tests.support.asgi.application', the path of the `application` in the "
            "project's asgi.py. `manage.py streams_init` shows the changes, also for a project without an asgi.py.",
            id="streams.W009",
        )
    ]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nowhere.asgi.application", "ModuleNotFoundError: No module named 'nowhere'"),
        (
            "project.asgi.app",
            'ImportError: Module "project.asgi" does not define a "app" attribute/class',
        ),
        ("project", "ImportError: project doesn't look like a module path"),
        ("broken_asgi.application", "ValueError: no key"),
    ],
)
def test_w010_application_cannot_be_imported(path: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [BrokenFinder, *sys.meta_path])
    assert messages(ASGI_APPLICATION=path) == [
        Warning(
            f"ASGI_APPLICATION = {path!r} cannot be imported: {problem}",
            hint="It must be the path of the `application` in the project's asgi.py, such as "
            "'tests.support.asgi.application'. `manage.py streams_init` shows an asgi.py for a project that has none.",
            id="streams.W010",
        )
    ]


class BrokenFinder:
    @staticmethod
    def find_spec(name: str, *args: Any) -> None:
        if name == "broken_asgi":
            raise ValueError("no key")


def test_production_is_not_warned() -> None:
    assert messages(debug=False, INSTALLED_APPS=WITHOUT_DAPHNE, ASGI_APPLICATION="nowhere.application") == []


def test_runserver_is_warned_without_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["manage.py", "runserver", "8001"])
    assert messages(debug=False, INSTALLED_APPS=WITHOUT_DAPHNE) == [SERVES_WSGI]


def test_other_runserver_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose command replaces `inner_run` starts a server of its own, which needs no ASGI_APPLICATION."""
    from django.core.management.commands.runserver import Command

    from streams.private import runserver

    module = types.ModuleType("uvicorn_runserver")
    other = type("Command", (Command,), {"inner_run": lambda *args, **options: None, "__module__": module.__name__})
    monkeypatch.setattr(runserver, "_command", lambda: other)
    with override_settings():
        del settings.ASGI_APPLICATION
        assert messages(INSTALLED_APPS=WITHOUT_DAPHNE) == []
