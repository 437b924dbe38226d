"""Which database is known to hold the log that it held before, so that its identity need not be compared each time.

Reading PostgreSQL's identity takes as long as a publish. So the identity is compared once for each place (see
postgresql.PLACE), and the place is compared each time, in the statement that takes the lock.
"""

from __future__ import annotations

import time
from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created

from streams.log import low_water
from streams.private.django import is_nested
from streams.runtime import test_run
from streams.runtime.executor import database

# How often the database is asked whether it is still the same, if the lock could not be taken.
ASK_SECONDS = 0.25

# By alias: the stored identity and the value of PLACE for which both were compared; whether the database has the
# procedure of one_trip.py; and the epoch.
_known: dict[str, tuple[str, str] | None] = {}
_has_procedure: dict[str, bool] = {}
_epochs: dict[str, int] = {}
_asked_at = 0.0  # in time.monotonic() seconds


def is_compared(identity: str, place: str) -> bool:
    """Return True if the database was compared with this identity at this place."""
    return bool(place) and _known.get(database()) == (identity, place)


def for_one_trip() -> tuple[str, str] | None:
    """Return the identity and the place that were compared; None if one_trip.py cannot be used.

    Its procedure commits, which fails in a transaction, and would leave rows behind beside that of a test.
    """
    alias = database()
    if not _has_procedure.get(alias) or test_run.strategy().is_beside_test():
        return None
    connection = connections[alias]
    return None if connection.in_atomic_block or not connection.get_autocommit() else _known.get(alias)


def remember(epoch: int, compared: tuple[str, str] | None, *, has_procedure: bool) -> None:
    """Remember the epoch of the log, and the identity and the place that were compared in it."""
    if _epochs.get(database(), epoch) != epoch:
        low_water.LOW_WATER.forget()  # the ids of a restored copy begin lower
    _epochs[database()] = epoch  # before the other: note_numbered() needs it
    _known[database()] = compared
    _has_procedure[database()] = has_procedure


def forget() -> None:
    """Have the identity compared again before positions are given."""
    _known[database()] = None


def note_numbered(newest_id: int, epoch: int | None = None) -> None:
    """Move the low-water mark: messages up to `newest_id` got positions in this epoch, or in the one that is known.

    Work inside an outer transaction can be rolled back, and does not count.
    """
    if not is_nested(connections[database()]):
        low_water.LOW_WATER.record(newest_id, _epochs[database()] if epoch is None else epoch)


def may_ask() -> bool:
    """Return True if it is time to ask the database whether it is still the same."""
    global _asked_at
    now = time.monotonic()
    if now - _asked_at < ASK_SECONDS:
        return False
    _asked_at = now
    return True


def _forget_if_not_durable(*, connection: Any, **kwargs: Any) -> None:
    """Compare again if commits on the last connection could be lost by a crash.

    A crash of the server's processes ends all connections, and need not change the place.
    """
    compared = _known.get(connection.alias)
    if compared is not None and "off" in compared[-1]:
        _known[connection.alias] = None


connection_created.connect(_forget_if_not_durable)
