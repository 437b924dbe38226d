"""Where calls to the log run: in which thread and on which database connection. What they do is log.py's business.

A stream lives for hours, so that its reads must not run in the request's own thread: asgiref would keep that thread,
and Django its connection, until the response ends. They run in a few threads of their own, which end, and give their
connections back, when there is nothing to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from django.db import connections
from django.db.utils import load_backend

from streams.conf import settings
from streams.databases import database as database  # who asks here where to run, asks here on what, too
from streams.log_connections import close_connections as close_connections
from streams.log_threads import DatabaseTimeout as DatabaseTimeout
from streams.log_threads import LogThreads as LogThreads
from streams.log_threads import do as _do
from streams.private import asgiref as asgiref_internals
from streams.runtime import test_run
from streams.runtime.resets import per_process

T = TypeVar("T")

# The time that a job in WAITING can take. These jobs wait for other transactions, prune, or call the site's receivers,
# so that the deadline for reads would cut work that goes well. Without any deadline, a few connections that have fallen
# silent would occupy all threads.
WAITING_SECONDS = 600.0


def timeout_seconds() -> float | None:
    """Return the time that a read or a write of the log can take, or None if there is no limit."""
    return settings.DATABASE_TIMEOUT_SECONDS if _can_fall_silent() else None


def _waiting_seconds() -> float | None:
    return WAITING_SECONDS if timeout_seconds() is not None else None


def _can_fall_silent() -> bool:
    """Return True if the log's database is on the other end of a connection. SQLite's is a file."""
    return _vendor(connections.settings[database()]["ENGINE"]) != "sqlite"


@functools.cache
def _vendor(engine: str) -> str:
    # Not by connections[…]: on an event loop that makes a connection object for each task that asks.
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
# WRITING: apublish. One thread is enough, because it takes all that wait into its transaction.
# CHORES: what the hubs look for every few seconds. They do so all at once: in more threads, an idle process would keep
# as many connections.
# READING: all other reads. They must not wait for publishers that wait for a lock.
# WAITING: jobs that can wait for another transaction, or take long.
FOLLOWING, WRITING, CHORES = (per_process(LogThreads, 1, seconds=timeout_seconds) for _ in range(3))
READING = per_process(LogThreads, seconds=timeout_seconds)
WAITING = per_process(LogThreads, seconds=_waiting_seconds)


def sync_caller() -> Executor | None:
    """Where a sync thread waits for this event loop (async_to_sync), the way to have that thread do something.

    So it is in an async test of Django's TestCase, in an async view under WSGI, and where a sync view calls
    async_to_sync.
    """
    loop = asyncio.get_running_loop()
    current = asgiref_internals.innermost_caller()
    starter = asgiref_internals.outermost_caller(loop) or test_run.strategy().thread_of_queries()
    if starter is None:
        return current
    if (waiting := _waiting_threads.get(loop)) is None:
        waiting = _waiting_threads[loop] = _WaitingThread(starter)
    if current is not None:
        waiting.reach_by(current)
    return waiting


class _WaitingThread(Executor):
    """A sync thread that waits for an event loop that it has started, maybe in several places of its stack at once.

    That is so where sync code beneath that loop, such as a sync middleware, has called async_to_sync again: then the
    thread serves only its innermost executor, and a job that was submitted to an outer one would wait for something
    that may wait for the job. So every executor of the thread gets a ticket, and the first to be served does the job.
    """

    def __init__(self, executor: Executor) -> None:
        self._executors: list[Any] = [executor]
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def reach_by(self, executor: Executor) -> None:
        """Use this executor as well, if it is the same thread's, also for the jobs that wait already."""
        thread_of = asgiref_internals.thread_of
        if executor not in self._executors and thread_of(executor) == thread_of(self._executors[0]):
            self._executors = [known for known in self._executors if not asgiref_internals.is_broken(known)]
            self._executors.append(executor)
            for _ in tuple(self._jobs):
                self._hand_ticket(executor)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.append((future, lambda: fn(*args, **kwargs)))
        for executor in self._executors:
            self._hand_ticket(executor)
        return future

    def _hand_ticket(self, executor: Executor) -> None:
        with contextlib.suppress(RuntimeError):  # it has just been left
            executor.submit(self._do_one)

    def _do_one(self) -> None:
        with contextlib.suppress(IndexError):  # another ticket was quicker
            _do(*self._jobs.popleft())


_waiting_threads: WeakKeyDictionary[asyncio.AbstractEventLoop, _WaitingThread] = WeakKeyDictionary()


async def run(fn: Callable[..., T], *args: Any, pool: LogThreads | None = None, seconds: float | None = None) -> T:
    """Run `fn(*args)`, which uses the log's database, away from the event loop.

    If a sync caller waits for this loop, its own thread runs it, on its own connection and so in its own transaction.
    Otherwise a log thread does: one of `pool`, or of READING.

    Raises DatabaseTimeout if a log thread does not get an answer within `seconds`, or else within the time of its pool.
    Then it is unknown whether the work was done.
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
