"""Leases: let one process at a time do a task, such as pruning. Written by conditional updates of one row.

Times are by the database's clock, so that a process with a wrong clock cannot take a lease early or keep it for years.
"""

from __future__ import annotations

import datetime
from typing import Any

from django.db import connections
from django.db.models import DateTimeField, ExpressionWrapper, Q, Value
from django.db.models.functions import Now

from streams.models import Lease
from streams.threads import database


def acquire(name: str, holder: str, seconds: float) -> bool:
    """Take the lease `name` for `seconds`, and return True; return False if another holder has it."""
    rows = Lease.objects.using(database()).filter(name=name)
    free = Q(expires_at=None) | Q(expires_at__lte=Now()) | Q(holder=holder)
    if not rows.exists():
        Lease.objects.using(database()).bulk_create([Lease(name=name)], ignore_conflicts=True)
    # An UPDATE with a condition is an atomic test-and-set: of several processes, one changes the row.
    return rows.filter(free).exists() and rows.filter(free).update(holder=holder, expires_at=_in(seconds)) == 1


def _in(seconds: float) -> ExpressionWrapper[Any]:
    assert connections[database()].vendor in ("postgresql", "sqlite")
    return ExpressionWrapper(Now() + Value(datetime.timedelta(seconds=seconds)), output_field=DateTimeField())
