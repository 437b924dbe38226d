"""The worker inside a server process: a thread with an event loop of its own, there while there is something to do.

A thread, and not a task of the server's loop: it serves under WSGI as well, no view that blocks its loop holds an
answer up, and it does not end with the loop on which somebody has asked.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading

from streams import shutdown, threads
from streams.relay.conf import settings
from streams.relay.generations import housekeeping
from streams.relay.generations.worker import STOP_SECONDS, Worker
from streams.relay.models import Generation
from streams.release import request_context

logger = logging.getLogger("streams.relay")

# A worker that has nothing to do ends after so long. In a test run, before the database is dropped under it.
LINGER_SECONDS = 3.0
TEST_LINGER_SECONDS = 0.05


class Background:
    """At most one worker of this process. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: Worker | None = None
        self._called = False  # since the worker began
        self._stopped = False

    def call(self) -> None:
        """A generation waits. Start the worker where there is none, if the site has its workers in its servers."""
        if settings.GENERATION_WORKER != "server" or threads.wrapped_in_test() is not None:
            return  # what is in a test's transaction, no other thread can see
        with self._lock:
            if self._stopped:
                return
            self._called = True
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name="streams-generations", daemon=True)
                thread.start()  # may fail, where the machine has none to give
                self._thread = thread
            elif self._loop is not None and self._worker is not None:
                self._loop.call_soon_threadsafe(self._worker.call)

    def forget(self, id: str) -> None:
        """A generation was ended by somebody else: let the upstream go now, and not when the lease is renewed."""
        with self._lock:
            if self._loop is not None and self._worker is not None:
                self._loop.call_soon_threadsafe(self._worker.forget, id)

    def stop(self) -> None:
        """Interrupt what is under way, and say so. Called when the process ends; there is no worker any more."""
        with self._lock:
            self._stopped = True
            thread = self._thread
            if self._loop is not None and self._worker is not None:
                self._loop.call_soon_threadsafe(self._worker.stop)
        if thread is not None:
            thread.join(STOP_SECONDS)

    def _serve(self) -> None:
        while True:
            try:
                asyncio.run(self._run())
            except Exception:
                logger.exception("The worker for answers failed.")
            with self._lock:
                # Somebody may have called between the worker's last look and now.
                if self._stopped or not self._called:
                    self._thread = None
                    return

    async def _run(self) -> None:
        worker = Worker(look_seconds=LINGER_SECONDS / 3)  # seldom: it is called
        with self._lock:
            if self._stopped:
                return
            self._called = False
            self._loop, self._worker = asyncio.get_running_loop(), worker
        try:
            await worker.run(linger=TEST_LINGER_SECONDS if threads.in_test_run() else LINGER_SECONDS)
        finally:
            with self._lock:
                self._loop = self._worker = None


def call() -> None:
    """Start the worker if needed, because a generation waits. See Background.call()."""
    if request_context() is not None:
        shutdown.listen()  # so that the worker can report interruptions, even if no stream was opened in this process
    _background.call()


def call_for(generation: Generation) -> None:
    """Call the worker if the generation waits for one: the process that took the request might have ended."""
    if generation.state == Generation.State.QUEUED:
        call()


def forget(id: str) -> None:
    """See Background.forget()."""
    _background.forget(id)


def stop() -> None:
    """See Background.stop()."""
    _background.stop()


async def reap_as_chore() -> None:
    """What each process that streams does every second: interrupt what the dead have left, take up what waits."""
    if found := await threads.run(housekeeping.look, pool=threads.CHORES):
        # Ending one can wait for a lock, and the one thread of CHORES must not wait.
        is_waiting = await threads.run(housekeeping.settle, found, pool=threads.WAITING)
        if is_waiting:
            call()


async def compact_as_chore() -> None:
    """housekeeping.compact(), away from the event loop."""
    await threads.run(housekeeping.compact, pool=threads.WAITING)


def _renew() -> None:
    global _background
    _background = Background()


_background = Background()
os.register_at_fork(after_in_child=_renew)  # a child inherits no threads
atexit.register(stop)
