"""The differences between a test run and a site. No other module asks if a test is running.

Django's TestCase, and pytest-django's `db`, wrap each test in a transaction that is rolled back. That has consequences:

- Only the test's own connection sees the transaction's rows. So calls to the log run in the thread that has it.
- A row that another connection commits is left behind by the rollback.
- A value from the database is no longer true after the test. So it is not cached.
- The test database is dropped after the last test. So threads, connections and hubs that are idle end quickly.

A TransactionTestCase empties the tables instead; the last two points are true for it as well. Everything else is the
same as on a site. (Hooks of on_commit() do not run inside a test's transaction: see `in_callers_transaction` of
private/django.py, which does not count that transaction.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

from asgiref.sync import ThreadSensitiveContext
from django.db import connections
from django.db.backends.signals import connection_created

from streams.private import asgiref as asgiref_internals
from streams.private import django as django_internals
from streams.runtime.database import database
from streams.runtime.resets import per_process

T = TypeVar("T")

# How long an idle thread waits for work in a test run.
LINGER_SECONDS = 0.05


class Site:
    """A site in production. Each override in TestRun gives its reason."""

    # Start a new epoch if the tables were emptied: clients can have any position.
    starts_new_epochs = True

    # Work goes on without an open stream and without anyone who waits for it, such as a hub that follows the log.
    works_unattended = True

    # The time that this process sees can be shifted.
    can_travel = False

    def cache_seconds(self, seconds: float) -> float:
        """Return how long a value from the database can be cached on a site `seconds`."""
        return seconds

    def linger_seconds(self, seconds: float) -> float:
        """Return how long an idle thread waits for work, on a site `seconds`."""
        return seconds

    def is_wrapped(self) -> bool:
        """Return True if a test is running inside a transaction that only its own connection can see."""
        return False

    def is_beside_test(self) -> bool:
        """Return True if another connection than the calling thread's has the transaction of the running test."""
        return False

    def wrapped_aliases(self) -> list[str]:
        """Return the databases on which the calling thread is inside a test's transaction."""
        return []

    def own_thread(self) -> Executor | None:
        """Return the executor of the running thread if calls to the log must run in it, on its event loop."""
        return None

    def thread_of_queries(self) -> Executor | None:
        """Return the executor that all queries of this event loop must run in, or None for no such restriction."""
        return None

    def call(self, fn: Callable[..., T], *args: Any) -> Callable[[], T]:
        """Return the function that does `fn(*args)` in a log thread."""
        return partial(fn, *args)

    async def outcome(self, job: asyncio.Future[T]) -> T:
        """Wait for a call to the log, and return its result."""
        return await job

    def connection(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which sync code uses the connection that it has to use."""
        return contextlib.nullcontext()

    def request_context(self) -> contextlib.AbstractAsyncContextManager[object]:
        """Return a context in which sync_to_async uses a thread, and so connections, as a request does."""
        return ThreadSensitiveContext()


class TestRun(Site):
    """A process in which Django's test environment is set up."""

    __test__ = False  # it is not a test of pytest's

    # Tests count on small positions, and a TransactionTestCase empties the tables before each of them.
    starts_new_epochs = False

    # It would go on after the test: find no log, write rows that a later test finds, and keep the database in use.
    works_unattended = False

    # A site's stored times must be true.
    can_travel = True

    def __init__(self) -> None:
        # `connections` does not show a thread's own connection to the code on that thread's event loop. So the one that
        # pytest-django's `db` has wrapped in a transaction is found here.
        self._connections: WeakSet[Any] = WeakSet()
        self._borrowing = threading.Lock()

    def remember(self, *, connection: Any, **kwargs: Any) -> None:
        """Receiver of connection_created."""
        if django_internals.in_test_run():
            self._connections.add(connection)

    def cache_seconds(self, seconds: float) -> float:
        """Return 0: a test that is rolled back would leave its tokens and its channels' settings in the cache."""
        return 0.0

    def linger_seconds(self, seconds: float) -> float:
        """Return a moment: no thread must keep a connection open when the database is dropped."""
        return min(seconds, LINGER_SECONDS)

    def is_wrapped(self) -> bool:
        return self._wrapped_connection() is not None

    def is_beside_test(self) -> bool:
        return self.is_wrapped() and not connections[database()].in_atomic_block

    def wrapped_aliases(self) -> list[str]:
        return [alias for alias in connections if django_internals.in_tests_transaction(connections[alias])]

    def _wrapped_connection(self) -> Any:
        """Return the connection on which TestCase, or pytest-django's `db`, has a transaction around the test."""
        alias = database()
        for connection in tuple(self._connections):
            if connection.alias == alias and django_internals.in_tests_transaction(connection):
                return connection
        return None

    def own_thread(self) -> Executor | None:
        """See Site.own_thread().

        It is an async test that runs on its own event loop, inside the transaction that pytest-django's `db` has opened
        in this very thread. This takes precedence over a sync caller, because the thread of a sync middleware is not
        inside the transaction.
        """
        wrapped = self._wrapped_connection()
        is_here = wrapped is not None and django_internals.thread_of(wrapped) == threading.get_ident()
        return _ThisThread(partial(self._borrow, wrapped)) if is_here else None

    def thread_of_queries(self) -> Executor | None:
        """Return asgiref's own thread, if an async test runs on its own event loop with SQLite in memory.

        Connections to a shared in-memory database do not wait for each other's locks. The thread that runs the test's
        own async queries is the one place in which nothing collides.
        """
        connection: Any = connections[database()]
        in_memory = connection.vendor == "sqlite" and connection.is_in_memory_db()
        return asgiref_internals.shared_executor() if in_memory else None

    def call(self, fn: Callable[..., T], *args: Any) -> Callable[[], T]:
        return _opening_nothing()(partial(fn, *args))

    async def outcome(self, job: asyncio.Future[T]) -> T:
        """See Site.outcome(). A job that is cancelled is awaited: the end of the test empties tables or rolls back."""
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            await asyncio.wait([job])
            raise

    def connection(self) -> contextlib.AbstractContextManager[None]:
        """See Site.connection(). Sync code beneath an async test, inside pytest-django's `db`, borrows its connection.

        asgiref runs that code in a thread that would wait for the test's transaction on SQLite, and leave rows behind
        on PostgreSQL. Any other thread uses its own connection: the test's own thread can be using the test's.
        """
        if connections[database()].in_atomic_block:
            return contextlib.nullcontext()
        wrapped = self._wrapped_connection()
        called = wrapped is not None and _called_from(django_internals.thread_of(wrapped))
        return self._borrow(wrapped) if called else _opening_nothing()

    def request_context(self) -> contextlib.AbstractAsyncContextManager[object]:
        """Return an empty context: a new thread would be outside of the test's transaction."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _borrow(self, connection: Any) -> Iterator[None]:
        """Let this thread use another thread's connection, as LiveServerTestCase does; one thread at a time."""
        with self._borrowing:
            own = connections[connection.alias]
            connection.inc_thread_sharing()
            connections[connection.alias] = connection
            try:
                yield
            finally:
                connections[connection.alias] = own
                connection.dec_thread_sharing()


class _ThisThread(Executor):
    """Runs a job at once in the thread that submits it, although an event loop runs there.

    For an async test whose own thread has its transaction. Any other thread would use the connection while this one
    might be rolling back, at the end of one of several tests that share an event loop.
    """

    def __init__(self, borrow: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._borrow = borrow

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            with self._borrow(), _queries_on_event_loop():
                future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # the caller gets it from the future
            future.set_exception(error)
        return future


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


@contextlib.contextmanager
def _queries_on_event_loop() -> Iterator[None]:
    """Allow queries in a thread that runs an event loop, by the environment variable that Django has for that."""
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]
        else:
            os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = before


def _called_from(thread: int | None) -> bool:
    """Return True if an event loop in that thread has called this one by sync_to_async, and so waits for it."""
    loop = asgiref_internals.main_event_loop()
    if loop is None or not loop.is_running():
        return False
    ident: Future[int] = Future()
    loop.call_soon_threadsafe(lambda: ident.set_result(threading.get_ident()))
    try:
        return ident.result(timeout=5) == thread
    except TimeoutError:
        return False


_SITE = Site()
_TEST_RUN = per_process(TestRun)


def strategy() -> Site:
    """Return the strategy for this process. A test run can begin after the apps are loaded, so ask each time."""
    return _TEST_RUN if django_internals.in_test_run() else _SITE


connection_created.connect(_TEST_RUN.remember)
