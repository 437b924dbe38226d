"""Failures that last: each is logged once, when it begins, and retried with growing pauses.

While a database is away, every stream that reconnects fails in several places, and there can be hundreds of streams.
Each caller decides what its client gets. This module makes sure that an outage is logged once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import sqlite3
import sys
from collections.abc import Iterator

from django.db import Error, InterfaceError, OperationalError

from streams.exceptions import NotMigrated
from streams.runtime.resets import on_settings_change, per_process
from streams.telemetry.log_fields import fields

# The cause of a database failure and its remedy, for clients and for the log. Only the log has the driver's text.
NO_ANSWER = "The database does not answer. Try again later."
NOT_MIGRATED = "The database lacks a migration, so that its tables do not fit this version: run `manage.py migrate`."
DISK_FULL = "The database's disk is full, so that nothing can be stored: free space on it, or make it larger."
NO_MEMORY = "The database is out of memory: give it more, or have fewer connections (its `max_connections`)."

# By PostgreSQL's SQLSTATE, and by SQLite's result code.
_BY_SQLSTATE = {
    "42P01": NOT_MIGRATED,  # undefined_table
    "42703": NOT_MIGRATED,  # undefined_column
    "53100": DISK_FULL,
    "53200": NO_MEMORY,
}
_BY_SQLITE_CODE = {sqlite3.SQLITE_FULL: DISK_FULL, sqlite3.SQLITE_NOMEM: NO_MEMORY}
_MISSING_IN_SQLITE = re.compile(r"no such (table|column)\b|has no column named")  # these have no code of their own


def explain(error: BaseException | None) -> str:
    """Return a sentence with the cause of a database failure and its remedy."""
    return _cause(error) or NO_ANSWER


def is_unavailable(error: BaseException | None) -> bool:
    """Return True if the database is the reason for the error, and not the request or the code."""
    return isinstance(error, InterfaceError | OperationalError) or is_not_migrated(error)


def is_not_migrated(error: BaseException | None) -> bool:
    """Return True if a table or a column is missing."""
    return _cause(error) == NOT_MIGRATED


def _cause(error: BaseException | None) -> str | None:
    """Return the cause, if the error or the driver's error that caused it has a known code."""
    while error is not None:
        if isinstance(error, NotMigrated):
            return NOT_MIGRATED
        if (found := _BY_SQLSTATE.get(getattr(error, "sqlstate", None) or "")) is not None:
            return found
        if isinstance(error, sqlite3.Error):
            if (found := _BY_SQLITE_CODE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)) is not None:
                return found
            if _MISSING_IN_SQLITE.search(str(error)):
                return NOT_MIGRATED
        error = error.__cause__
    return None


def _lacks_value(error: Error) -> bool:
    """Return True if a NOT NULL column got no value: it is of another version, because our inserts fill all columns."""
    driver = error.__cause__
    return getattr(driver, "sqlstate", None) == "23502" or str(error).startswith("NOT NULL constraint failed")


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Add the remedy to a database error if an administrator has to act. Use it around our own inserts.

    Raises NotMigrated or OperationalError instead of the original error, with the driver's first line.
    """
    try:
        yield
    except Error as error:
        cause = _cause(error)
        driver = str(error).partition("\n")[0]  # PostgreSQL's next lines quote the statement
        if cause == NOT_MIGRATED or _lacks_value(error):
            raise NotMigrated(f"{NOT_MIGRATED} ({driver})") from error
        if cause is not None:
            raise OperationalError(f"{cause} ({driver})") from error
        raise


# The longest pause between two attempts, and so the time until a recovery is noticed.
MAX_BACKOFF_SECONDS = 5.0


class Outage:
    """The state of something that the whole process uses: works, or fails. Methods can be called from any thread.

    `over` is logged when it has recovered. `name` is the field `outage` of its log records.
    """

    def __init__(self, over: str, name: str = "other") -> None:
        self._over = over
        self._name = name
        self._failing: dict[object, list[logging.Logger]] = {}

    def record_failure(self, logger: logging.Logger, what: str, kind: object = None) -> None:
        """Log `what` with the current exception, unless a failure of this kind was logged since the last recovery."""
        entry = [logger]
        # In one step, because threads can fail at the same time. Before logging, because a log handler can fail too.
        if self._failing.setdefault(kind, entry) is entry:
            logger.exception(what, extra=fields(event="outage", outage=self._name))

    def recovered(self) -> None:
        """Log the recovery, if a failure was recorded. Otherwise the call is cheap."""
        if not self._failing:
            return
        failing, self._failing = self._failing, {}
        for logger in {entry[0] for entry in failing.values()}:
            logger.info(self._over, extra=fields(event="recovered", outage=self._name))

    def forget(self) -> None:
        """Forget the recorded failures without logging a recovery."""
        self._failing = {}


DATABASE = per_process(Outage, "The database answers again.", "database")
DISK = per_process(Outage, "The database can store again.", "disk")
# Logged once by a process: it can only end if `migrate` is run.
MIGRATIONS = per_process(Outage, "The database has its tables and columns.", "migrations")
SENDING = per_process(Outage, "The notifier works again.", "notifier-sending")
LISTENING = per_process(Outage, "The notifier's listener works again.", "notifier-listening")
for _outage in (SENDING, LISTENING):
    on_settings_change(_outage.forget)  # there is another notifier then


def report(logger: logging.Logger, what: str) -> Outage | None:
    """Log `what` with the current exception; a database error only once in an outage.

    Returns the outage of a database error, so that the caller can end it with recovered(); otherwise None.
    """
    error = sys.exception()
    if isinstance(error, Error | NotMigrated):
        cause = _cause(error)
        # A full disk can still be read, and a database without some tables still answers. So these are outages of their
        # own, which an answer does not end.
        outage = {DISK_FULL: DISK, NOT_MIGRATED: MIGRATIONS}.get(cause or "", DATABASE)
        # One for each exception class, so that a wrong query is not mistaken for part of an outage.
        kind = type(error) if outage is DATABASE else None
        outage.record_failure(logger, f"{what} {cause}" if cause else what, kind)
        return outage
    logger.exception(what, extra=fields(event="outage", outage="other"))
    return None


class Backoff:
    """Waits longer after each failure, and logs a series of failures once, with the traceback of the first.

    Args:
        what: the text to log.
        max_seconds: the longest pause.
        outage: the outage that the failures belong to, if other code can record it as well.
    """

    def __init__(
        self,
        logger: logging.Logger,
        what: str,
        *,
        max_seconds: float = MAX_BACKOFF_SECONDS,
        outage: Outage | None = None,
    ) -> None:
        self._logger = logger
        self._what = what
        self._max_seconds = max_seconds
        self._outage = outage
        self._reported: Outage | None = None
        self._failures = 0

    def reset(self) -> None:
        """Note a success: the next failure is logged, and its pause is short."""
        if (outage := self._outage or self._reported) is not None:
            outage.recovered()
        if self._failures and self._outage is None:
            extra = fields(event="recovered", outage="other")
            self._logger.info("Recovered after %d failures: %s", self._failures, self._what, extra=extra)
        self._failures, self._reported = 0, None

    async def wait(self) -> None:
        """Log the exception that is being handled, if it is the first of a series, and pause."""
        if not self._failures:
            if self._outage is not None:
                self._outage.record_failure(self._logger, self._what)
            else:
                self._reported = report(self._logger, self._what)
        self._failures += 1
        # The exponent is bounded because a float would overflow in an outage of hours. The jitter spreads the processes
        # of a site, which have all failed at the same moment.
        seconds = min(0.1 * 2 ** min(self._failures, 10), self._max_seconds)
        await asyncio.sleep(seconds * random.uniform(0.5, 1))  # noqa: S311
