"""Where calls to the log run: in which thread and on which database connection. What they do is log.py's business.

A stream lives for hours, so that its reads must not run in the request's own thread: asgiref would keep that thread,
and Django its connection, until the response ends. They run in a few threads of their own, which end, and give their
connections back, when there is nothing to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from django.db import connections

from streams.conf import settings
from streams.databases import database as database  # who asks here where to run, asks here on what, too
from streams.private import asgiref as asgiref_internals
from streams.private import django as django_internals
from streams.private.django import in_test_run as in_test_run

T = TypeVar("T")

# A thread that idles for so long closes its connection and ends. Longer than POLL_SECONDS by default, so that a hub's
# polls share one connection instead of opening one each second.
LINGER_SECONDS = 3.0


class LogThreads(Executor):
    """At most `size` daemon threads (LOG_THREADS, where not given), each with its own database connections.

    Threads start on demand.

    `submit` may be called from any thread. A job that raises hands its exception to its future; the thread lives on.
    """

    def __init__(self, size: int | None = None) -> None:
        self._size = size
        # Not SimpleQueue: before Python 3.13 its get() forgets the timeout where another takes what it woke up for.
        self._jobs: queue.Queue[tuple[Future[Any], Callable[[], Any]]] = queue.Queue()
        self._lock = threading.Lock()
        self._threads = 0
        self._free = 0  # threads that wait, or are about to, less the jobs that were promised to them

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.put((future, lambda: fn(*args, **kwargs)))
        with self._lock:
            self._free -= 1
            start = self._free < 0 and self._threads < (self._size or settings.LOG_THREADS)
            if start:
                self._threads += 1
                self._free += 1
        if start:
            try:
                threading.Thread(target=self._work, name="streams-log", daemon=True).start()
            except BaseException:  # the machine has none to give, maybe for a moment only
                with self._lock:
                    self._threads -= 1
                    self._free -= 1
                future.cancel()  # whoever comes to the job passes over it
                raise
        return future

    def _work(self) -> None:
        while True:
            try:
                future, job = self._jobs.get(timeout=_linger())
            except queue.Empty:
                # Closed before this thread stops to count as free: a test that waits for none to be left may then
                # drop its database.
                close_connections()
                with self._lock:
                    if self._free > 0:
                        self._free -= 1
                        self._threads -= 1
                        return
                continue  # a job was promised to this thread a moment ago
            _do(future, job)
            del future, job
            with self._lock:
                self._free += 1
            _tidy_connections()


def _do(future: Future[Any], job: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(job())
        except BaseException as error:  # the caller's, by way of its future
            future.set_exception(error)


def _linger() -> float:
    return 0.05 if in_test_run() else LINGER_SECONDS


def _tidy_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred:
            connection.close_if_unusable_or_obsolete()
        connection.queries_log.clear()  # DEBUG collects every query, and no request ends here to forget them


def close_connections() -> None:
    """Close the calling thread's connections, but for those inside an atomic block."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


def _renew_pools() -> None:
    global READING, WRITING, WAITING, _borrowing
    READING, WRITING, WAITING = LogThreads(), LogThreads(1), LogThreads()
    _borrowing = threading.Lock()


# Three, so that a stream's reads do not wait for publishers that wait for a lock, nor these for those that wait for
# another's idempotency key. One that writes is enough: it takes all who wait into its transaction.
READING = WRITING = WAITING = LogThreads()
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


async def run(fn: Callable[..., T], *args: Any, pool: LogThreads | None = None) -> T:
    """Run `fn(*args)`, which talks to the log's database, away from the event loop.

    Where a sync caller waits for this loop, its own thread does it, on its own connection and so in its own
    transaction. Otherwise a log thread does, of `pool`, or of those that read.
    """
    loop = asyncio.get_running_loop()
    if not in_test_run():
        return await loop.run_in_executor(sync_caller() or pool or READING, fn, *args)
    job = loop.run_in_executor(_special_thread() or pool or READING, _run_in_test, fn, *args)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        # When a test's loop has ended, its transaction is rolled back, or its tables are emptied. Not under our hands.
        await asyncio.wait([job])
        raise


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
