"""Running calls to the log away from the event loop: the pools of threads, and run(), which chooses one.

A stream lives for hours. If its reads ran in the thread of its request, asgiref would keep that thread, and Django its
connection, until the response ends. So they run in a few threads of their own, which end and close their connections
when they are idle.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from django.db import connections
from django.db.utils import load_backend

from streams.conf import settings
from streams.runtime import test_run
from streams.runtime.connections import close_connections as close_connections
from streams.runtime.database import database as database
from streams.runtime.resets import per_process
from streams.runtime.sync_callers import sync_caller as sync_caller
from streams.runtime.thread_pool import DatabaseTimeout as DatabaseTimeout
from streams.runtime.thread_pool import LogThreads as LogThreads

T = TypeVar("T")

# The time that a job in WAITING can take. These jobs wait for other transactions, prune, or call the site's receivers,
# so the deadline for reads would abort work that makes progress. Without any deadline, a few connections that have
# fallen silent would occupy all threads.
WAITING_SECONDS = 600.0

# How long run_in_test() waits for the thread of a test.
TEST_SECONDS = 30.0


def timeout_seconds() -> float | None:
    """Return the time that a read or a write of the log can take, or None if there is no limit.

    SQLite has no limit: its database is a file, not the other end of a connection that can fall silent.
    """
    is_file = _vendor(connections.settings[database()]["ENGINE"]) == "sqlite"
    return None if is_file else settings.DATABASE_TIMEOUT_SECONDS


def _waiting_seconds() -> float | None:
    return WAITING_SECONDS if timeout_seconds() is not None else None


@functools.cache
def _vendor(engine: str) -> str:
    # Not `connections[alias].vendor`: on an event loop that creates a connection object for each task.
    vendor: str = load_backend(engine).DatabaseWrapper.vendor
    return vendor


def connect() -> None:
    """Open the calling thread's connection to the log's database, if it is not open. Blocks.

    Call it before taking a turn or a lock that others wait for: with a connection pool, the others can hold all
    connections.
    """
    connections[database()].ensure_connection()


def max_threads() -> int:
    """Return how many log threads can hold a connection at the same time."""
    return 3 + 2 * settings.DATABASE_THREADS


# FOLLOWING: the hubs' reads of the log's tail. Live delivery must not wait for replays.
# WRITING: apublish. One thread is enough, because it writes for all callers that wait, in one transaction.
# PERIODIC: the periodic tasks of the hubs. They are all due at the same time: with more threads, an idle process would
# keep as many connections.
# READING: all other reads. They must not wait for publishers that wait for a lock.
# WAITING: jobs that can wait for another transaction, or take long.
FOLLOWING, WRITING, PERIODIC = (per_process(LogThreads, 1, seconds=timeout_seconds) for _ in range(3))
READING = per_process(LogThreads, seconds=timeout_seconds)
WAITING = per_process(LogThreads, seconds=_waiting_seconds)


async def run(fn: Callable[..., T], *args: Any, pool: LogThreads | None = None, seconds: float | None = None) -> T:
    """Run `fn(*args)`, which uses the log's database, away from the event loop.

    If a sync caller waits for this loop, its own thread runs it, on its own connection and so in its own transaction.
    Otherwise a log thread runs it.

    Args:
        pool: the pool of that log thread. Default: READING.
        seconds: the time that a log thread can take. Default: that of its pool.

    Raises DatabaseTimeout if a log thread takes longer. Then it is unknown whether the work was done.
    """
    mode = test_run.strategy()
    executor = mode.own_thread() or sync_caller() or pool or READING
    call = mode.call(fn, *args)
    if isinstance(executor, LogThreads):
        job = executor.begin(call, seconds)
    else:
        job = asyncio.get_running_loop().run_in_executor(executor, call)
    return await mode.outcome(job)


def uses_log_threads() -> bool:
    """Return True if run() uses the log threads here and now."""
    return (test_run.strategy().own_thread() or sync_caller()) is None


def run_in_test(fn: Callable[..., T], *args: Any) -> T:
    """Run `fn(*args)` like run(), and block the calling thread until it has ended, also if an event loop runs there.

    For the helpers of streams.testing, which a sync and an async test call in the same way. Raise TimeoutError if the
    thread that sees the test's transaction is busy for TEST_SECONDS.
    """
    mode = test_run.strategy()
    if not is_on_event_loop():
        with mode.connection():
            return fn(*args)
    call = mode.call(fn, *args)
    executor = mode.own_thread() or sync_caller()
    if executor is not None:
        return executor.submit(call).result(TEST_SECONDS)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result(TEST_SECONDS)


def is_on_event_loop() -> bool:
    """Return True if an event loop runs in the calling thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
