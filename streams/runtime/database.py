"""The log's database: its alias in DATABASES, and a name that identifies the log between processes.

It also has a decorator that keeps views outside of transactions.
"""

from __future__ import annotations

import functools
import os
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from django.apps import apps
from django.db import connections, router, transaction

from streams.exceptions import UnsupportedDatabase
from streams.private.django import exempt_from_atomic_requests
from streams.runtime.resets import on_settings_change

F = TypeVar("F", bound=Callable[..., Any])


@functools.cache  # publishing calls it, and a router cannot move the log while the site runs
def database() -> str:
    """Return the alias of the database that holds the log.

    Reads use it too, because a replica lags behind, and a reader would miss messages.
    """
    # The model by its name, because notifiers call this and must not import the log's tables.
    return router.db_for_write(apps.get_model("streams", "Message"))


on_settings_change(database.cache_clear, "DATABASES", "DATABASE_ROUTERS")


ROUTE = "Route the apps `streams` and `streams_relay` to another database with a database router."


@functools.cache
def unsupported() -> str | None:
    """Return an error message if the log cannot be in its database, or None. It does not connect."""
    connection: Any = connections[database()]
    if connection.vendor == "sqlite":
        if sqlite3.sqlite_version_info >= (3, 35):
            return None
        name = f"SQLite {sqlite3.sqlite_version}"
    elif connection.vendor == "postgresql":
        return None
    else:  # Django's `display_name` would connect to MySQL
        name = {"mysql": "MySQL or MariaDB", "oracle": "Oracle"}.get(connection.vendor, connection.vendor)
    return f"The log needs PostgreSQL, or SQLite 3.35 or newer; the database {database()!r} is {name}."


on_settings_change(unsupported.cache_clear, "DATABASES", "DATABASE_ROUTERS")


def require_supported() -> None:
    """Raise UnsupportedDatabase if the log cannot be in its database."""
    if (problem := unsupported()) is not None:
        raise UnsupportedDatabase(f"{problem} {ROUTE}")


def log_name() -> str:
    """Return a name that all processes of a site share, and that differs in test runs and in other sites.

    It is the database's NAME, without host and port, because some processes can use a pooler and others not. For
    SQLite it is the path of the file.
    """
    connection: Any = connections[database()]
    name = connection.settings_dict["NAME"]
    if connection.vendor != "sqlite":
        return f"{name or connection.settings_dict['OPTIONS'].get('service', '')}"
    if connection.is_in_memory_db():
        return f"{name} {_TOKEN} {os.getpid()}"  # such a database belongs to one process
    return _absolute(str(name))


_TOKEN = secrets.token_hex(8)


@functools.cache  # called for each notice
def _absolute(path: str) -> str:
    return path if path.startswith("file:") else str(Path(path).resolve())


def non_atomic_requests(view: F) -> F:
    """Decorate a view to exclude it from ATOMIC_REQUESTS, for every database.

    Django's own decorator excludes it for one database, and Django refuses an async view if any other database has
    ATOMIC_REQUESTS.
    """
    transaction.non_atomic_requests(view)
    exempt_from_atomic_requests(view)
    return view
