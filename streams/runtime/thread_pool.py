"""A pool of threads for work on the log's database. Each thread has its own connections.

Threads start on demand and end when they are idle. If the database does not answer a thread in time, the thread is
abandoned, and another one takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError
from functools import partial
from typing import Any, TypeVar

from django.db import OperationalError

from streams.conf import settings
from streams.runtime import failures, test_run
from streams.runtime.connections import (
    close_connections,
    close_ended_connections,
    limit_connecting,
    shut_down,
    tidy_connections,
)
from streams.runtime.tasks import start_thread

T = TypeVar("T")
logger = logging.getLogger("streams")

# A thread that is idle for this long closes its connection and ends. Longer than POLL_SECONDS by default, so that the
# polls of a hub share one connection instead of opening one each second.
LINGER_SECONDS = 3.0

# How many abandoned threads of one pool can exist at a time. Usually there are few: a thread whose connection is shut
# down ends at once, and a thread that waits for a new connection ends after its `connect_timeout`.
MAX_ABANDONED = 8

# The shortest pause between two checks for overdue jobs.
MIN_CHECK_SECONDS = 0.01


class DatabaseTimeout(OperationalError):
    """The log's database did not answer a log thread in time. It is unknown whether the work was done."""


class LogThreads(Executor):
    """At most `size` daemon threads (DATABASE_THREADS if not given), each with its own database connections.

    `seconds` returns the time that a job can take, or None if there is no limit. After that time the job's future fails
    with DatabaseTimeout. Its thread and connection are abandoned: they no longer count, and their result is dropped.

    `submit` can be called from any thread. If a job raises, its future gets the exception, and the thread goes on. The
    idle thread that worked last gets the next job, so that surplus threads stay idle and end.
    """

    def __init__(self, size: int | None = None, *, seconds: Callable[[], float | None] = lambda: None) -> None:
        self._size = size
        self._seconds = seconds
        self._lock = threading.Lock()  # never held during I/O
        self._jobs: deque[_Job] = deque()  # empty while a thread is idle
        self._threads = 0  # without the abandoned ones
        self._idle: list[_Worker] = []
        self._timed: set[_Worker] = set()  # the workers whose job has a deadline
        self._abandoned: set[_Worker] = set()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return self._submit(partial(fn, *args, **kwargs), self._seconds())

    def begin(self, call: Callable[[], T], seconds: float | None = None) -> asyncio.Future[T]:
        """Submit `call` from the running event loop, which also watches the deadline.

        `seconds` replaces the pool's own time limit.
        """
        seconds = self._seconds() if seconds is None else seconds
        job = asyncio.wrap_future(self._submit(call, seconds))
        if seconds is not None:
            self._watch(job, seconds)
        return job

    def _submit(self, call: Callable[[], T], seconds: float | None) -> Future[T]:
        self.abandon_overdue()
        job = _Job(call, seconds)
        with self._lock:
            if self._idle:
                worker = self._idle.pop()
                self._assign(worker, job)
                worker.wake.release()
                return job.future
            self._jobs.append(job)
        try:
            self._start_thread()
        except BaseException:
            # Raise only if no other thread has taken the job in the meantime. The threads skip a cancelled job.
            if job.future.cancel():
                raise
        return job.future

    def abandon_overdue(self) -> float | None:
        """Abandon the threads whose jobs are overdue.

        Returns the seconds until the next job is overdue, or None if no job has a deadline.
        """
        with self._lock:
            now = time.monotonic()
            overdue = [(worker, worker.job) for worker in self._timed if worker.due <= now]
            for worker, _ in overdue:
                self._timed.discard(worker)
                self._abandoned.add(worker)
                self._threads -= 1
            following = min((worker.due for worker in self._timed), default=None)
            waiting = len(self._jobs)
        for worker, job in overdue:
            if job is not None:
                job.fail(worker.due)
            worker.abandon()
        with contextlib.suppress(RuntimeError):  # the system cannot start a thread; the next check tries again
            for _ in range(min(waiting, len(overdue) or 1)):
                self._start_thread()
        return None if following is None else max(following - now, MIN_CHECK_SECONDS)

    def _watch(self, job: asyncio.Future[Any], seconds: float) -> None:
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def check() -> None:
            nonlocal timer
            timer = loop.call_later(self.abandon_overdue() or seconds, check)

        timer = loop.call_later(seconds, check)
        job.add_done_callback(lambda _: timer.cancel())

    def _start_thread(self) -> None:
        with self._lock:
            size = self._size or settings.DATABASE_THREADS
            if not self._jobs or self._threads >= size:
                return
            can_start = self._threads + len(self._abandoned) < size + MAX_ABANDONED
            refused = [] if can_start or self._threads else list(self._jobs)
            if refused:
                self._jobs.clear()
            self._threads += can_start
        if not can_start:
            for job in refused:
                job.refuse()
            return
        try:
            start_thread(self._work, "streams-log")
        except BaseException as error:
            with self._lock:
                self._threads -= 1
                others = self._threads
            if not (others and isinstance(error, RuntimeError)):  # the other threads do the job if no more can start
                raise

    def _assign(self, worker: _Worker, job: _Job) -> None:
        worker.job = job
        if job.seconds is not None:
            worker.due = time.monotonic() + job.seconds
            self._timed.add(worker)

    # --- In the thread ---

    def _work(self) -> None:
        worker = _here.worker = _Worker()
        limit_connecting()
        with self._lock:
            is_waiting = self._take(worker)
        while not is_waiting or self._is_handed_a_job(worker):
            assert worker.job is not None
            worker.trust()
            close_ended_connections()
            deliver = worker.job.run()
            with self._lock:
                worker.job = None
                self._timed.discard(worker)
                if worker in self._abandoned:
                    self._abandoned.remove(worker)
                    break
                # Before the result is delivered, so that a caller that then submits another job finds this thread idle.
                is_waiting = self._take(worker)
            deliver()
            del deliver
            tidy_connections()
        close_connections()

    def _take(self, worker: _Worker) -> bool:
        """Give the thread the next job, or let it be idle. Return True if it is idle."""
        if self._jobs:
            self._assign(worker, self._jobs.popleft())
            return False
        self._idle.append(worker)
        return True

    def _is_handed_a_job(self, worker: _Worker) -> bool:
        """Wait for a job. Return False if none came for LINGER_SECONDS; the thread then no longer counts."""
        if worker.wake.acquire(timeout=test_run.strategy().linger_seconds(LINGER_SECONDS)):
            return True
        with self._lock:
            is_idle = worker in self._idle
            if is_idle:
                self._idle.remove(worker)
        if not is_idle:  # it got a job just now
            worker.wake.acquire()
            return True
        # Close them while the thread still counts: once a pool has no thread, nothing of it keeps the database in use.
        close_connections()
        with self._lock:
            if self._jobs:
                self._assign(worker, self._jobs.popleft())
                return True
            self._threads -= 1
            return False


class _Job:
    def __init__(self, call: Callable[[], Any], seconds: float | None) -> None:
        self.future: Future[Any] = Future()
        self.call = call
        self.seconds = seconds

    def run(self) -> Callable[[], None]:
        """Do the work, and return a function that delivers its outcome."""
        if not self.future.set_running_or_notify_cancel():
            return lambda: None
        try:
            result = self.call()
        except BaseException as error:  # the caller gets it from the future
            return partial(_deliver, self.future.set_exception, error)
        return partial(_deliver, self.future.set_result, result)

    def fail(self, due: float) -> None:
        """Fail a job that had to be done by `due`. Log it, unless it met a silence that is already logged."""
        global _reported_at
        error = DatabaseTimeout(
            f"The log's database did not answer within {self.seconds:g} s. It is unknown whether the work was done. "
            "Its connection is closed, and the next call opens a new one."
        )
        assert self.seconds is not None
        if due - self.seconds > _reported_at:  # a job that began earlier met the silence that is logged
            _reported_at = time.monotonic()
            try:
                raise error
            except DatabaseTimeout:
                failures.report(logger, "The log's database does not answer; its connections are closed.")
        _deliver(self.future.set_exception, error)

    def refuse(self) -> None:
        """Fail a job because too many abandoned threads exist to start another one."""
        error = DatabaseTimeout(
            f"The log's database does not answer: {MAX_ABANDONED} threads wait for it. No more are started. "
            "Set `connect_timeout` and `tcp_user_timeout` in its OPTIONS, so that they end sooner."
        )
        _deliver(self.future.set_exception, error)


def _deliver(deliver: Callable[[Any], None], outcome: Any) -> None:
    with contextlib.suppress(InvalidStateError):  # the job has just been abandoned
        deliver(outcome)


class _Worker:
    """The state of one log thread: its job, and when that job is overdue."""

    def __init__(self) -> None:
        self.job: _Job | None = None
        self.due = float("inf")  # in time.monotonic() seconds; for a job with a deadline
        self.wake = threading.Lock()  # released when the idle thread has got a job
        self.wake.acquire()
        self.connections: list[Any] = []  # all that the thread has opened
        self._timeouts = _timeouts

    def trust(self) -> None:
        """Close the connections if the database has been silent on any since: these are probably silent as well."""
        if self._timeouts != _timeouts:
            self._timeouts = _timeouts
            close_connections()

    def abandon(self) -> None:
        """Shut down the connections, so that the thread wakes and ends. Called from another thread."""
        global _timeouts
        _timeouts += 1
        for connection in tuple(self.connections):
            shut_down(connection)


# How many threads were abandoned in this process, and when that was last logged.
_timeouts = 0
_reported_at = float("-inf")  # in time.monotonic() seconds

_here = threading.local()


def remember_connection(connection: Any, **kwargs: Any) -> None:
    """Receiver of connection_created: a log thread remembers the connections that it opens."""
    worker: _Worker | None = getattr(_here, "worker", None)
    if worker is not None and connection not in worker.connections:
        worker.connections.append(connection)
