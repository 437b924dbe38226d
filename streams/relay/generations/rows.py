"""Read the table of generations, and lock its rows."""

from __future__ import annotations

from typing import TypeAlias

from django.db import connections
from django.db.models import F, QuerySet

from streams.relay.models import Generation
from streams.threads import database

Rows: TypeAlias = "QuerySet[Generation]"


def generation_rows() -> Rows:
    return Generation.objects.using(database())


def locked(found: Rows, *, skip_locked: bool = False) -> Rows:
    """`rows`, to be locked as they are read, in their order; on SQLite the database is locked now."""
    if connections[database()].vendor == "postgresql":
        return found.select_for_update(skip_locked=skip_locked, of=("self",))
    # A write that changes nothing: SQLite takes its one lock at once, and never has to upgrade a read.
    generation_rows().filter(pk="").update(worker=F("worker"))
    return found
