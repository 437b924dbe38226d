"""Where calls to the log run: in which thread and on which database connection. What they do is log.py's business.

A stream lives for hours, so that its reads must not run in the request's own thread: asgiref would keep that thread,
and Django its connection, until the response ends. They run in a few threads of their own, which end, and give their
connections back, when there is nothing to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from django.db import connections
from django.db.utils import load_backend

from streams.conf import settings
from streams.databases import database as database  # who asks here where to run, asks here on what, too
from streams.log_connections import close_connections as close_connections
from streams.log_threads import DatabaseTimeout as DatabaseTimeout
from streams.log_threads import LogThreads as LogThreads
from streams.log_threads import do as _do
from streams.private import asgiref as asgiref_internals
from streams.private import django as django_internals
from streams.private.django import in_test_run as in_test_run

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


def _renew_pools() -> None:
    global FOLLOWING, WRITING, CHORES, READING, WAITING, _borrowing
    FOLLOWING, WRITING, CHORES = (LogThreads(1, seconds=timeout_seconds) for _ in range(3))
    READING, WAITING = LogThreads(seconds=timeout_seconds), LogThreads(seconds=_waiting_seconds)
    _borrowing = threading.Lock()


def max_threads() -> int:
    """Return how many log threads can hold a connection at the same time."""
    return 3 + 2 * settings.LOG_THREADS


# FOLLOWING: the hubs' reads of the log's tail. Live delivery must not wait for replays.
# WRITING: apublish. One thread is enough, because it takes all that wait into its transaction.
# CHORES: what the hubs look for every few seconds. They do so all at once: in more threads, an idle process would keep
# as many connections.
# READING: all other reads. They must not wait for publishers that wait for a lock.
# WAITING: jobs that can wait for another transaction, or take long.
FOLLOWING = WRITING = CHORES = READING = WAITING = LogThreads()
_borrowing = threading.Lock()
_renew_pools()
os.register_at_fork(after_in_child=_renew_pools)  # a child inherits no threads

# The connections that a test run has opened. `connections` does not show a thread's own one to the code on that
# thread's event loop, so the one that pytest-django's `db` has wrapped in a transaction is found here.
_test_connections: WeakSet[Any] = WeakSet()


def remember_test_connection(connection: Any, **kwargs: Any) -> None:
    """A receiver of Django's connection_created. Does nothing outside a test run."""
    if in_test_run():
        _test_connections.add(connection)


def sync_caller() -> Executor | None:
    """Where a sync thread waits for this event loop (async_to_sync), the way to have that thread do something.

    So it is in an async test of Django's TestCase, in an async view under WSGI, and where a sync view calls
    async_to_sync.
    """
    loop = asyncio.get_running_loop()
    current = asgiref_internals.innermost_caller()
    starter = asgiref_internals.outermost_caller(loop) or _thread_of_test_queries()
    if starter is None:
        return current
    if (waiting := _waiting_threads.get(loop)) is None:
        waiting = _waiting_threads[loop] = _WaitingThread(starter)
    if current is not None:
        waiting.reach_by(current)
    return waiting


def _thread_of_test_queries() -> Executor | None:
    """asgiref's own thread, in an async test that runs on its own event loop with SQLite in memory.

    Connections to a shared in-memory database do not wait for each other's locks. The thread that does the test's own
    async queries is the one place where nothing collides.
    """
    if not in_test_run():
        return None
    connection: Any = connections[database()]
    in_memory = connection.vendor == "sqlite" and connection.is_in_memory_db()
    return asgiref_internals.shared_executor() if in_memory else None


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
    """Run `fn(*args)`, which talks to the log's database, away from the event loop.

    Where a sync caller waits for this loop, its own thread does it, on its own connection and so in its own
    transaction. Otherwise a log thread does, of `pool`, or of those that read.

    Raises DatabaseTimeout if a log thread does not get an answer within `seconds`, or else the time of its pool. Then
    it is unknown whether the work was done.
    """
    if not in_test_run():
        return await _begin(sync_caller() or pool or READING, seconds, fn, *args)
    job = _begin(_special_thread() or pool or READING, seconds, _run_in_test, fn, *args)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        # When a test's loop has ended, its transaction is rolled back, or its tables are emptied. Not under our hands.
        await asyncio.wait([job])
        raise


def _begin(executor: Executor, seconds: float | None, fn: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    if isinstance(executor, LogThreads):
        return executor.begin(functools.partial(fn, *args), seconds)
    return asyncio.get_running_loop().run_in_executor(executor, fn, *args)


def uses_log_threads() -> bool:
    """Whether run() uses the log threads here and now."""
    return _special_thread() is None


def _special_thread() -> Executor | None:
    wrapped = wrapped_in_test()
    if wrapped is not None and django_internals.thread_of(wrapped) == threading.get_ident():
        # An async test that runs on its own event loop, inside the transaction that pytest-django's `db` has opened in
        # this very thread. Before the caller: a sync middleware's thread would not be inside it.
        return _ThisThread(wrapped)
    return sync_caller()


def _run_in_test(fn: Callable[..., T], *args: Any) -> T:
    with _opening_nothing():
        return fn(*args)


@contextlib.contextmanager
def _opening_nothing() -> Iterator[None]:
    """Close the connection if it is opened within: a test's database is dropped while asgiref's thread lives on."""
    connection = connections[database()]
    was_open = connection.connection is not None
    try:
        yield
    finally:
        if not was_open and not connection.in_atomic_block:
            connection.close()


class _ThisThread(Executor):
    """The thread that submits, at once, although an event loop runs in it.

    For an async test whose own thread has its transaction. Any other thread would use the connection while this one
    may be rolling back, at the end of one of several tests that share an event loop.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        with _borrow(self._connection), _queries_on_event_loop():
            _do(future, lambda: fn(*args, **kwargs))
        return future


@contextlib.contextmanager
def _queries_on_event_loop() -> Iterator[None]:
    """Have Django not refuse queries in a thread that runs an event loop, by the variable that it has for that."""
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]
        else:
            os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = before


def test_connection() -> contextlib.AbstractContextManager[None]:
    """A context in which sync code beneath an async test, inside pytest-django's `db`, works in the test's transaction.

    asgiref runs it in a thread that would wait for the test's transaction on SQLite, and leave rows behind on
    PostgreSQL. Any other thread gets its own connection: the test's own thread may be using the test's meanwhile.
    """
    if not in_test_run() or connections[database()].in_atomic_block:
        return contextlib.nullcontext()
    wrapped = wrapped_in_test()
    called = wrapped is not None and _called_from(django_internals.thread_of(wrapped))
    return _borrow(wrapped) if called else _opening_nothing()


def _called_from(thread: int | None) -> bool:
    """Whether an event loop in that thread has called this one by sync_to_async, and so waits for it."""
    loop = asgiref_internals.main_event_loop()
    if loop is None or not loop.is_running():
        return False
    ident: Future[int] = Future()
    loop.call_soon_threadsafe(lambda: ident.set_result(threading.get_ident()))
    try:
        return ident.result(timeout=5) == thread
    except TimeoutError:
        return False


def wrapped_in_test() -> Any:
    """The connection on which Django's TestCase, or pytest-django's `db`, has a transaction around the running test."""
    if not in_test_run():
        return None
    alias = database()
    for connection in tuple(_test_connections):
        if connection.alias == alias and django_internals.in_tests_transaction(connection):
            return connection
    return None


@contextlib.contextmanager
def _borrow(connection: Any) -> Iterator[None]:
    """Let this thread use another's connection, as Django's LiveServerTestCase does; one thread at a time."""
    with _borrowing:
        own = connections[connection.alias]
        connection.inc_thread_sharing()
        connections[connection.alias] = connection
        try:
            yield
        finally:
            connections[connection.alias] = own
            connection.dec_thread_sharing()
