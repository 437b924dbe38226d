"""Which database holds the log: its alias, for Django, and a name by which processes know each other's logs apart.

And how views stay outside of transactions, whichever databases there are.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from django.apps import apps
from django.db import connections, router, transaction

from streams.private.django import exempt_from_atomic_requests
from streams.runtime.resets import on_settings_change

F = TypeVar("F", bound=Callable[..., Any])


@functools.cache  # each publish asks several times, and routers cannot move the log while the site runs
def database() -> str:
    """Return the alias of the database that holds the log.

    Reads go there as well: a replica lags, and lag looks like a gap.
    """
    # The model by its name: notifiers ask as well, and must not know the log's tables.
    return router.db_for_write(apps.get_model("streams", "Message"))


on_settings_change(database.cache_clear, "DATABASES", "DATABASE_ROUTERS")


def log_name() -> str:
    """The same in all processes of a site, and another one in those of a test run or of a site beside it.

    It is the database's NAME: host and port may differ, where one process goes through a pooler and another does not.
    For SQLite it is where the file is.
    """
    connection: Any = connections[database()]
    name = connection.settings_dict["NAME"]
    if connection.vendor != "sqlite":
        return f"{name or connection.settings_dict['OPTIONS'].get('service', '')}"
    if connection.is_in_memory_db():
        return f"{name} {_TOKEN} {os.getpid()}"  # nobody else's, whatever it is called; nor a forked child's
    return _whole(str(name))


_TOKEN = secrets.token_hex(8)


@functools.cache  # each notice asks
def _whole(path: str) -> str:
    return path if path.startswith("file:") else str(Path(path).resolve())


def non_atomic_requests(view: F) -> F:
    """Keep a view outside of the transaction that ATOMIC_REQUESTS opens, for every database. A decorator.

    Django's decorator names one database, and Django refuses an async view if any other has ATOMIC_REQUESTS.
    """
    transaction.non_atomic_requests(view)
    exempt_from_atomic_requests(view)
    return view
