"""The clocks. Stored times are compared with the database's clock alone, because the clocks of machines can be wrong.

A process uses its own clock only for durations (`time.monotonic()`), for the ends of tokens, and for times that it
shows. In a test run, `streams.testing.travel()` shifts the time: the process's clock, shifted, then replaces the
database's, so that all times agree, also with those of libraries that freeze the process's clock.

Presence, leases and signed notices do not travel. They measure how long other processes have been silent.
"""

from __future__ import annotations

import datetime
import time as process_clock
from typing import Any

from django.conf import settings
from django.db import connections
from django.db.models import DateTimeField, Value
from django.db.models.functions import Now
from django.utils import timezone

from streams.runtime.database import database

# By how many seconds a test has shifted the time of this process; None unless a test travels.
_shift_seconds: float | None = None


def time() -> float:
    """Return the process's time in Unix seconds."""
    return process_clock.time() + shift_seconds()


def now() -> Any:
    """Return the time of the running statement by the database's clock, as a value for a query on the log's database.

    Subtract or add a timedelta as usual. Compare it with times that users enter, which Django has stored.
    """
    return read() if _is_local() else stored_now()


def stored_now() -> Any:
    """Like now(), to be compared with times that the database itself has stored by `db_default=Now()`."""
    return Now() if _shift_seconds is None else Value(_shifted(), output_field=DateTimeField())


def read() -> datetime.datetime:
    """Return the time by the clock of the log's database. Uses a query."""
    if _is_local():
        return timezone.now() + datetime.timedelta(seconds=shift_seconds())
    if _shift_seconds is not None:
        return _shifted()
    connection = connections[database()]
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT strftime('%%Y-%%m-%%dT%%H:%%M:%%f+00:00', 'now')", [])
            moment = datetime.datetime.fromisoformat(cursor.fetchone()[0])
        else:
            cursor.execute("SELECT statement_timestamp()")
            moment = cursor.fetchone()[0]
    return moment


def _is_local() -> bool:
    # SQLite's clock is the machine's, but it only knows UTC: without USE_TZ, Django stores local times there.
    return connections[database()].vendor == "sqlite" and not settings.USE_TZ


# --- Time travel in tests ---------------------------------------------------------------------------------------------


def is_shifted() -> bool:
    """Return True while a test travels."""
    return _shift_seconds is not None


def shift_seconds() -> float:
    """Return by how many seconds a test has shifted the time; 0 unless a test travels."""
    return _shift_seconds or 0.0


def set_shift(seconds: float | None) -> None:
    """Shift the time of this process by `seconds`, or end that with None. Only for streams.testing."""
    global _shift_seconds
    _shift_seconds = seconds


def _shifted() -> datetime.datetime:
    """Return the shifted time as the database would store it by `db_default=Now()`."""
    moment = datetime.datetime.fromtimestamp(time(), datetime.UTC)
    if settings.USE_TZ:
        return moment
    # Without USE_TZ, SQLite stores its own times in UTC, and other databases in the connection's time zone.
    is_utc = connections[database()].vendor == "sqlite"
    return timezone.make_naive(moment, datetime.UTC if is_utc else timezone.get_default_timezone())
