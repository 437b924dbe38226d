"""The class behind `manage.py runserver`, which decides whether the development server serves ASGI.

The commands have no public attribute for this. One that names the protocol would make this module unnecessary.
"""

from __future__ import annotations

import sys
from typing import Any

from django.core import management
from django.core.management.commands import runserver

from streams.private import or_substitute


class _Unknown:
    """A command that cannot be imported."""

    inner_run = None


def _command() -> type[Any]:
    """Return the class of the command. The first app in INSTALLED_APPS that has a `runserver` provides it."""
    found = management.get_commands()["runserver"]
    if isinstance(found, management.BaseCommand):
        return type(found)
    try:
        return type(management.load_command_class(found, "runserver"))
    except ImportError:
        return _Unknown


@or_substitute(False, "Django", "runserver.Command.inner_run", "A `runserver` that serves WSGI is not reported.")
def serves_wsgi() -> bool:
    """Return True if `manage.py runserver` would serve WSGI.

    Django's own method, which daphne and other packages replace, starts a WSGI server. Seen in Django 5.2 to 6.1
    (django.core.management.commands.runserver.Command.inner_run, django.core.management.load_command_class).
    """
    return _command().inner_run is runserver.Command.inner_run


@or_substitute(False, "Django", "management.load_command_class", "A missing ASGI_APPLICATION is not reported.")
def needs_asgi_application() -> bool:
    """Return True if `manage.py runserver` is daphne's, also below another package's subclass. Seen in daphne 4.2."""
    return any(base.__module__.startswith("daphne.") for base in _command().__mro__)


def is_running() -> bool:
    """Return True in the process that was started as `manage.py runserver`, and in that of its reloader."""
    return sys.argv[1:2] == ["runserver"]
