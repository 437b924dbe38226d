"""Which database is known to hold the log that it held before, so that its identity need not be compared each time.

Reading PostgreSQL's identity takes as long as a publish. So the identity is compared once for each place (see
postgresql.PLACE), and the place is compared each time, in the statement that takes the lock.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from django.db import connections
from django.db.backends.signals import connection_created

from streams.log import low_water
from streams.private.django import is_nested
from streams.runtime import clock, test_run
from streams.runtime.executor import database

# How often the database is asked whether it is still the same, if the lock could not be taken.
ASK_SECONDS = 0.25


class _Known(NamedTuple):
    epoch: int
    compared: tuple[str, str] | None  # the stored identity and the value of PLACE for which both were compared
    has_procedure: bool  # the database has the procedure of one_trip.py


_known: dict[str, _Known] = {}  # by alias
_asked_at = 0.0  # in time.monotonic() seconds


def is_compared(identity: str, place: str) -> bool:
    """Return True if the database was compared with this identity at this place."""
    state = _known.get(database())
    return bool(place) and state is not None and state.compared == (identity, place)


def for_one_trip() -> tuple[str, str] | None:
    """Return the identity and the place that were compared; None if one_trip.py cannot be used.

    Its procedure commits, which fails in a transaction, and would leave rows behind beside that of a test. It also
    leaves the time to the database, which a test can have shifted.
    """
    state = _known.get(alias := database())
    if state is None or not state.has_procedure or test_run.strategy().is_beside_test() or clock.is_shifted():
        return None
    connection = connections[alias]
    return None if connection.in_atomic_block or not connection.get_autocommit() else state.compared


def remember(epoch: int, compared: tuple[str, str] | None, *, has_procedure: bool) -> None:
    """Remember the epoch of the log, and the identity and the place that were compared in it."""
    alias = database()
    if alias in _known and _known[alias].epoch != epoch:
        low_water.LOW_WATER.forget()  # the ids of a restored copy begin lower
    _known[alias] = _Known(epoch, compared, has_procedure)


def forget(alias: str | None = None) -> None:
    """Have the identity compared again before positions are given. `alias`: the log's database by default."""
    alias = alias or database()
    if (state := _known.get(alias)) is not None:
        _known[alias] = state._replace(compared=None)


def note_numbered(newest_id: int, epoch: int | None = None) -> None:
    """Move the low-water mark: messages up to `newest_id` got positions in this epoch, or in the one that is known.

    Work inside an outer transaction can be rolled back, and does not count.
    """
    alias = database()
    if not is_nested(connections[alias]):
        low_water.LOW_WATER.record(newest_id, _known[alias].epoch if epoch is None else epoch)


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
    state = _known.get(connection.alias)
    if state is not None and state.compared is not None and "off" in state.compared[-1]:
        forget(connection.alias)


connection_created.connect(_forget_if_not_durable)
