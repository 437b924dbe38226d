"""Failures that last: logged once, where they begin, whoever comes upon them; and tried again with patience.

While a database is away, each stream that comes back meets it in several places, and three hundred come back each few
seconds. What their clients are answered is their own business; the log has to tell an outage once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from typing import Any

from django.core.signals import setting_changed
from django.db import Error

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


DATABASE = Outage("The database answers again.")
SENDING = Outage("The notifier works again.")
LISTENING = Outage("The notifier's listener works again.")


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "STREAMS":  # there is another notifier now
        SENDING.forget()
        LISTENING.forget()


def _renew() -> None:
    for outage in (DATABASE, SENDING, LISTENING):
        outage.forget()


os.register_at_fork(after_in_child=_renew)  # a child tells for itself
setting_changed.connect(_forget)  # sent by override_settings, in tests


def report(logger: logging.Logger, what: str) -> Outage | None:
    """Log `what` with the exception that is being handled: what the database fails with, once in an outage.

    Returns that outage, which somebody has to end who sees the database work.
    """
    error = sys.exception()
    if isinstance(error, Error):
        # Of each kind one, so that a mistake in a query is not taken for part of an outage.
        DATABASE.failed(logger, what, type(error))
        return DATABASE
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
