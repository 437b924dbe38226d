"""Running a call to the log in the sync thread that waits for this event loop, and so in that thread's transaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from streams.private import asgiref as asgiref_internals
from streams.runtime import test_run

T = TypeVar("T")


def sync_caller() -> Executor | None:
    """Return an executor that uses the sync thread that waits for this event loop; None if no thread waits.

    A thread waits in an async test of Django's TestCase, in an async view under WSGI, and if a sync view calls
    async_to_sync. Call this before you wait for a lock or a task that needs the thread: the thread might be reachable
    only through the caller's own context.
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
    """A sync thread that waits for an event loop that it has started, perhaps in several frames of its stack.

    It does so if sync code that this loop runs, such as a sync middleware, calls async_to_sync again. The thread then
    serves only its innermost executor. A job that was submitted to an outer executor would wait for code that might
    itself wait for the job. So every executor of the thread gets a ticket, and the first to be served does the job.
    """

    def __init__(self, executor: Executor) -> None:
        self._executors: list[Any] = [executor]
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def reach_by(self, executor: Executor) -> None:
        """Also use this executor if it belongs to the same thread, even for the jobs that already wait."""
        thread_of = asgiref_internals.thread_of
        if executor not in self._executors and thread_of(executor) == thread_of(self._executors[0]):
            self._executors = [known for known in self._executors if not asgiref_internals.is_broken(known)]
            self._executors.append(executor)
            for _ in tuple(self._jobs):
                self._hand_ticket(executor)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.append((future, partial(fn, *args, **kwargs)))
        for executor in self._executors:
            self._hand_ticket(executor)
        return future

    def _hand_ticket(self, executor: Executor) -> None:
        with contextlib.suppress(RuntimeError):  # the async_to_sync call of this executor has just returned
            executor.submit(self._do_one)

    def _do_one(self) -> None:
        try:
            future, call = self._jobs.popleft()
        except IndexError:  # another ticket was quicker
            return
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(call())
        except BaseException as error:  # the caller gets it from the future
            future.set_exception(error)


_waiting_threads: WeakKeyDictionary[asyncio.AbstractEventLoop, _WaitingThread] = WeakKeyDictionary()
