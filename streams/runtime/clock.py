"""The database's clock. Stored times are compared with it alone, because the clocks of machines can be wrong.

A process uses its own clock only for durations (`time.monotonic()`) and for times that it shows.
"""

from __future__ import annotations

import datetime
from typing import Any

from django.conf import settings
from django.db import connections
from django.db.models.functions import Now
from django.utils import timezone

from streams.runtime.database import database


def now() -> Any:
    """Return the time of the running statement by the database's clock, as a value for a query on the log's database.

    Subtract or add a timedelta as usual.
    """
    return timezone.now() if _is_local() else Now()


def read() -> datetime.datetime:
    """Return the time by the clock of the log's database. Uses a query."""
    if _is_local():
        return timezone.now()
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
