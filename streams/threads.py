"""Where calls to the log run: in which thread and on which database connection. What they do is log.py's business.

A stream lives for hours, so that its reads must not run in the request's own thread: asgiref would keep that thread,
and Django its connection, until the response ends. They run in a few threads of their own, which end, and give their
connections back, when there is nothing to do.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from asgiref.sync import AsyncToSync, SyncToAsync
from django.db import connections, router

from streams.conf import settings

T = TypeVar("T")

# A thread that idles for so long closes its connection and ends. Longer than POLL_SECONDS by default, so that a hub's
# polls share one connection instead of opening one each second.
LINGER_SECONDS = 3.0


def database() -> str:
    """The alias of the database that holds the log. Reads go there too: a replica lags, and lag looks like a gap."""
    from streams.models import Message

    return router.db_for_write(Message)


class LogThreads(Executor):
    """At most LOG_THREADS daemon threads, started on demand, each with its own database connections.

    `submit` may be called from any thread. A job that raises hands its exception to its future; the thread lives on.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._free = 0  # threads that wait, or are about to, less the jobs that were promised to them

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.put((future, lambda: fn(*args, **kwargs)))
        with self._lock:
            self._free -= 1
            start = self._free < 0 and self._threads < settings.LOG_THREADS
            if start:
                self._threads += 1
                self._free += 1
        if start:
            threading.Thread(target=self._work, name="streams-log", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            try:
                future, job = self._jobs.get(timeout=_linger())
            except queue.Empty:
                # Closed before this thread stops to count as free: a test that waits for none to be left may then
                # drop its database.
                _close_connections()
                with self._lock:
                    if self._free > 0:
                        self._free -= 1
                        self._threads -= 1
                        return
                continue  # a job was promised to this thread a moment ago
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:  # the caller's, by way of its future
                    future.set_exception(error)
                del job
            del future
            with self._lock:
                self._free += 1
            _tidy_connections()


def _linger() -> float:
    return 0.05 if in_test_run() else LINGER_SECONDS


def in_test_run() -> bool:
    """Whether Django's test environment is set up in this process. Costs nothing where it is not."""
    module = sys.modules.get("django.test.utils")
    return module is not None and hasattr(module._TestState, "saved_data")


def _tidy_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred:
            connection.close_if_unusable_or_obsolete()
        connection.queries_log.clear()  # DEBUG collects every query, and no request ends here to forget them


def _close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


_threads = LogThreads()


def sync_caller() -> Executor | None:
    """Where a sync thread waits for this event loop (async_to_sync), the way to have that thread do something.

    So it is in an async test of Django's TestCase, in an async view under WSGI, and where a sync view calls
    async_to_sync. asgiref keeps both of these for its own sync_to_async (seen in 3.8 to 3.13); a public way to ask
    would let them go.
    """
    loop = asyncio.get_running_loop()
    caller = getattr(AsyncToSync.executors, "current", None) or AsyncToSync.loop_thread_executors.get(loop)
    # Broken: the caller has gone, and left a task behind in which it still seems to wait.
    return None if caller is None or caller._broken else caller


async def run(fn: Callable[..., T], *args: Any) -> T:
    """Run `fn(*args)`, which talks to the log's database, away from the event loop.

    Where a sync caller waits for this loop, its own thread does it, on its own connection and so in its own
    transaction. Otherwise a log thread does.
    """
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(sync_caller() or _for_test(), fn, *args)


def _for_test() -> Executor:
    """The log threads; or, in an async test that runs on its own event loop, what leads to the test's connection."""
    if in_test_run():
        connection: Any = connections[database()]
        if connection.in_atomic_block:
            # Inside the transaction that pytest-django's `db` opened in this very thread.
            return _Borrowing(connection)
        if connection.vendor == "sqlite" and connection.is_in_memory_db():
            # Connections to a shared in-memory database do not wait for each other's locks. The thread that does the
            # test's own async queries is the one place where nothing collides.
            return SyncToAsync.single_thread_executor
    return _threads


class _Borrowing(Executor):
    """The log threads, one at a time, on another thread's connection, as Django's LiveServerTestCase shares one."""

    _one_at_a_time = threading.Lock()

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return _threads.submit(self._run, fn, *args, **kwargs)

    def _run(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        alias = self._connection.alias
        with self._one_at_a_time:
            own = connections[alias]
            self._connection.inc_thread_sharing()
            connections[alias] = self._connection
            try:
                return fn(*args, **kwargs)
            finally:
                connections[alias] = own
                self._connection.dec_thread_sharing()
