"""The internals of `runserver`: the installed versions have them as Streams uses them, and it works without them."""

from __future__ import annotations

import inspect

import daphne.management.commands.runserver as of_daphne
import pytest
from django.contrib.staticfiles.management.commands import runserver as of_staticfiles
from django.core import management
from django.core.management.commands import runserver as of_django

from streams.private import runserver as accessors


def test_inner_run_starts_the_server() -> None:
    """Django's starts a WSGI server. Only daphne replaces it, and gets its application from ASGI_APPLICATION."""
    assert "self.get_handler(" in inspect.getsource(of_django.Command.inner_run)
    assert "get_internal_wsgi_application()" in inspect.getsource(of_django.Command.get_handler)
    assert of_staticfiles.Command.inner_run is of_django.Command.inner_run
    assert of_daphne.Command.inner_run is not of_django.Command.inner_run
    assert "settings.ASGI_APPLICATION" in inspect.getsource(of_daphne.get_default_application)


def test_command_of_this_site_is_daphnes() -> None:
    assert accessors._command() is of_daphne.Command
    assert not accessors.serves_wsgi()
    assert accessors.needs_asgi_application()


def test_nothing_is_reported_without_inner_run(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(of_django.Command, "inner_run")
    for _ in range(2):
        assert accessors.serves_wsgi() is False
    assert warnings.text.count("A `runserver` that serves WSGI is not reported.") == 1


def test_nothing_is_reported_without_load_command_class(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(management, "load_command_class")
    assert accessors.serves_wsgi() is False
    assert accessors.needs_asgi_application() is False
    assert warnings.text.count("is not reported.") == 2


def test_command_that_cannot_be_imported_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """`runserver` itself reports it. The checks must not fail because of it."""
    monkeypatch.setattr(management, "get_commands", lambda: {"runserver": "tests.nothing"})
    assert accessors.serves_wsgi() is False
    assert accessors.needs_asgi_application() is False
