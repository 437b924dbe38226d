"""The class behind `manage.py runserver`, which decides whether the development server serves ASGI.

Seen in Django 5.2 to 6.1 and daphne 4.2. The classes have no public attribute that names the protocol.
"""

from __future__ import annotations

import sys
from typing import Any

from django.core.management import BaseCommand, get_commands, load_command_class
from django.core.management.commands import runserver


def _command() -> type[Any]:
    """Return the class of the command. The first app in INSTALLED_APPS that has a `runserver` provides it."""
    found = get_commands()["runserver"]
    return type(found if isinstance(found, BaseCommand) else load_command_class(found, "runserver"))


def serves_wsgi() -> bool:
    """Return True if `manage.py runserver` would serve WSGI.

    Django's own method, which daphne and other packages replace, starts a WSGI server.
    """
    return getattr(_command(), "inner_run", None) is runserver.Command.inner_run


def needs_asgi_application() -> bool:
    """Return True if `manage.py runserver` is daphne's, also below another package's subclass."""
    return any(base.__module__.startswith("daphne.") for base in _command().__mro__)


def is_running() -> bool:
    """Return True in the process that was started as `manage.py runserver`, and in that of its reloader."""
    return sys.argv[1:2] == ["runserver"]
