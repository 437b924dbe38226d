"""Failures that last: logged once, where they begin, whoever comes upon them; and tried again with patience.

While a database is away, each stream that comes back meets it in several places, and three hundred come back each few
seconds. What their clients are answered is their own business; the log has to tell an outage once.
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

# What is wrong with the database, and what helps: for clients and for the log. The driver's text is in the log only.
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
    """Return a sentence that says what is wrong with the database, and what helps."""
    return _cause(error) or NO_ANSWER


def is_unavailable(error: BaseException | None) -> bool:
    """Return True if the database is the reason for the error, and not the request or the code."""
    return isinstance(error, InterfaceError | OperationalError) or is_not_migrated(error)


def is_not_migrated(error: BaseException | None) -> bool:
    """Return True if a table or a column is missing."""
    return _cause(error) == NOT_MIGRATED


def _cause(error: BaseException | None) -> str | None:
    """Return what is wrong, if the error or one of its causes says so: the cause of Django's error is the driver's."""
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
    """Return True if a column got no value that must have one. Our inserts fill all columns of their own version."""
    driver = error.__cause__
    return getattr(driver, "sqlstate", None) == "23502" or str(error).startswith("NOT NULL constraint failed")


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Let an error of the database say what helps, if an administrator has to do something. Within: inserts of ours."""
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


# After an outage, however long, it is found within this time that things work again.
MAX_BACKOFF_SECONDS = 5.0


class Outage:
    """Whether something that the whole process uses fails. All methods may be called from any thread."""

    def __init__(self, over: str) -> None:
        self._over = over
        self._failing: dict[object, list[logging.Logger]] = {}

    def failed(self, logger: logging.Logger, what: str, kind: object = None) -> None:
        """Log `what` with the exception that is being handled, unless one of its kind was since it last worked."""
        told = [logger]
        # In one step, for threads may come at once; and before it is logged, for a handler may come upon it as well.
        if self._failing.setdefault(kind, told) is told:
            logger.exception(what)

    def works(self) -> None:
        """It does what it should. Costs nothing where nothing was known of a failure."""
        if not self._failing:
            return
        failing, self._failing = self._failing, {}
        for logger in {told[0] for told in failing.values()}:
            logger.info(self._over)

    def forget(self) -> None:
        self._failing = {}


DATABASE = per_process(Outage, "The database answers again.")
DISK = per_process(Outage, "The database can store again.")
# Logged once by a process: it can only end if `migrate` is run.
MIGRATIONS = per_process(Outage, "The database has its tables and columns.")
SENDING = per_process(Outage, "The notifier works again.")
LISTENING = per_process(Outage, "The notifier's listener works again.")
for _outage in (SENDING, LISTENING):
    on_settings_change(_outage.forget)  # there is another notifier then


def report(logger: logging.Logger, what: str) -> Outage | None:
    """Log `what` with the exception that is being handled: what the database fails with, once in an outage.

    Returns that outage, which somebody has to end who sees the database work.
    """
    error = sys.exception()
    if isinstance(error, Error | NotMigrated):
        cause = _cause(error)
        # A full disk can still be read, and a database without some tables answers: that it does ends neither.
        outage = {DISK_FULL: DISK, NOT_MIGRATED: MIGRATIONS}.get(cause or "", DATABASE)
        # Of each kind one, so that a mistake in a query is not taken for part of an outage.
        kind = type(error) if outage is DATABASE else None
        outage.failed(logger, f"{what} {cause}" if cause else what, kind)
        return outage
    logger.exception(what)
    return None


class Backoff:
    """Waits longer after each failure, and logs a run of failures once: at its beginning, with the stack.

    `outage`: what it is that fails, where others meet it as well.
    """

    def __init__(
        self,
        logger: logging.Logger,
        what: str,
        *,
        most_seconds: float = MAX_BACKOFF_SECONDS,
        outage: Outage | None = None,
    ) -> None:
        self._logger = logger
        self._what = what
        self._most_seconds = most_seconds
        self._outage = outage
        self._reported: Outage | None = None
        self._failures = 0

    def reset(self) -> None:
        """It went well."""
        if (outage := self._outage or self._reported) is not None:
            outage.works()
        if self._failures and self._outage is None:
            self._logger.info("Recovered after %d failures: %s", self._failures, self._what)
        self._failures, self._reported = 0, None

    async def wait(self) -> None:
        if not self._failures:
            if self._outage is not None:
                self._outage.failed(self._logger, self._what)
            else:
                self._reported = report(self._logger, self._what)
        self._failures += 1
        # A bound on the exponent as well: no float holds what an outage of hours would come to. And by lot, for all
        # processes of a site have met the outage at the same moment.
        seconds = min(0.1 * 2 ** min(self._failures, 10), self._most_seconds)
        await asyncio.sleep(seconds * random.uniform(0.5, 1))  # noqa: S311
