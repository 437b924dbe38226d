"""Read the table of generations, and lock its rows."""

from __future__ import annotations

from typing import TypeAlias

from django.db import connections
from django.db.models import F, QuerySet

from streams.relay.models import Generation
from streams.runtime.executor import database

Rows: TypeAlias = "QuerySet[Generation]"


def generation_rows() -> Rows:
    """Return all generations, in the log's database."""
    return Generation.objects.using(database())


def locked(found: Rows, *, skip_locked: bool = False) -> Rows:
    """Return `found` as a query that locks its rows in order when it is read. On SQLite, lock the database now."""
    if connections[database()].vendor == "postgresql":
        return found.select_for_update(skip_locked=skip_locked, of=("self",))
    # This write changes nothing, but takes SQLite's write lock now. Upgrading a read lock later could fail.
    generation_rows().filter(pk="").update(worker=F("worker"))
    return found
