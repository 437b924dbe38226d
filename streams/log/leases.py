"""Leases: let one process at a time do a task, such as pruning. Written by conditional updates of one row.

Times are by the database's clock, so that a process with a wrong clock cannot take a lease early or keep it for years.
A holder that dies keeps its lease until it expires: take a short one, and renew it while the task goes on.
"""

from __future__ import annotations

import datetime
import os
import secrets
import socket
from typing import Any

from django.db.models import Q
from django.db.models.functions import Now

from streams.log.transactions import own_transaction
from streams.models import Lease
from streams.runtime.executor import database


def new_holder() -> str:
    """Return a name for one run of a task: unique, and it shows an operator which process it is."""
    return f"{socket.gethostname()[:30]}:{os.getpid()}:{secrets.token_hex(8)}"


def acquire(name: str, holder: str, seconds: float, *, longest: float | None = None) -> bool:
    """Take the lease `name` for `seconds`, and return True; return False if another holder has it.

    `longest`: the longest time that any holder takes it for, in seconds; `seconds` by default. A lease that has longer
    to go dates from a time when the database's clock was ahead, and counts as free.
    """
    longest = seconds if longest is None else max(longest, seconds)
    free = Q(expires_at=None) | Q(expires_at__lte=Now()) | Q(holder=holder) | Q(expires_at__gt=_in(longest))
    rows = Lease.objects.using(database()).filter(name=name)
    if not rows.exists():
        Lease.objects.using(database()).bulk_create([Lease(name=name)], ignore_conflicts=True)
    # The look first: most of the time another process has it, and a write takes a lock.
    return rows.filter(free).exists() and _update(rows.filter(free), holder, seconds)


def renew(name: str, holder: str, seconds: float) -> bool:
    """Keep the lease for `seconds` from now, and return True; return False if another holder has taken it."""
    return _update(Lease.objects.using(database()).filter(name=name, holder=holder), holder, seconds)


def release(name: str, holder: str, *, rest_seconds: float = 0.0) -> bool:
    """Give the lease up: after `rest_seconds`, any process can take it. Return False if another holder has it."""
    return _update(Lease.objects.using(database()).filter(name=name, holder=holder), "", rest_seconds)


def _update(rows: Any, holder: str, seconds: float) -> bool:
    # An UPDATE with a condition is an atomic test-and-set: of several processes, one changes the row. Under READ
    # COMMITTED the others wait for it and then find that the condition no longer holds; under REPEATABLE READ, which a
    # site can have as its default, they would fail.
    with own_transaction():
        return bool(rows.update(holder=holder, expires_at=_in(seconds) if seconds > 0 else None))


def _in(seconds: float) -> Any:
    return Now() + datetime.timedelta(seconds=seconds)
