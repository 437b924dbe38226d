"""Readings: figures of the log's database for monitoring, such as the head of the log.

Their owners register them. All are read together, seldom, and within a time limit, so that no monitoring can harm the
database, however often it asks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from streams.runtime import executor, failures, test_run
from streams.runtime.executor import DatabaseTimeout
from streams.runtime.resets import per_process

logger = logging.getLogger("streams")

# A reading is repeated after this time. Several collectors can ask, and each at its own pace.
CACHE_SECONDS = 5.0

# How long a caller waits. Less than the timeout of collectors: 10 seconds in Prometheus.
READING_SECONDS = 2.0

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """A figure, or several figures that differ in the value of one label.

    name: Its name, without a prefix.
    help: One sentence that explains it.
    read: Returns {value of the label: number}; {"": number} without a label; {} if there is nothing to report. It can
        query the log's database, and block.
    label: The name of the label, or "". Its values are fixed.
    """

    name: str
    help: str
    read: Callable[[], Values]
    label: str = ""


_registered: dict[str, Reading] = {}


def register(reading: Reading) -> None:
    """Have `read()` return this reading as well. A registered one of the same name is replaced."""
    _registered[reading.name] = reading


def registered() -> list[Reading]:
    """Return all readings, in the order in which they were registered."""
    return list(_registered.values())


class _Reader:
    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for moments
        self._job: Future[dict[str, Values] | None] | None = None
        self._began = float("-inf")

    def read(self) -> dict[str, Values] | None:
        mode = test_run.strategy()
        if mode.is_wrapped():
            with mode.connection():
                return _read_all()
        with self._lock:
            is_old = time.monotonic() - self._began > mode.cache_seconds(CACHE_SECONDS)
            # One job at a time: while the database does not answer, no further thread waits for it.
            if self._job is None or (is_old and self._job.done()):
                self._began = time.monotonic()
                # Not with the other reads, where it would wait for replays.
                self._job = executor.PERIODIC.submit(mode.call(_read_all))
            job = self._job
        try:
            return job.result(READING_SECONDS)
        except (TimeoutError, DatabaseTimeout):
            executor.PERIODIC.abandon_overdue()  # perhaps no event loop watches this job
            return None


def _read_all() -> dict[str, Values] | None:
    try:
        found = {reading.name: reading.read() for reading in registered()}
    except Exception:
        failures.report(logger, "The figures for monitoring could not be read from the database.")
        return None
    failures.DATABASE.recovered()
    return found


_reader = per_process(_Reader)


def read() -> dict[str, Values] | None:
    """Return {name of a reading: its values}, at most CACHE_SECONDS old, or None if the database does not answer.

    It blocks for READING_SECONDS at most. Call it from a thread without a running event loop.
    """
    return _reader.read()
