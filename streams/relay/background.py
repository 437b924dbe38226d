"""The worker inside a server process: a thread with an event loop of its own, there while there is something to do.

A thread, and not a task of the server's loop: it serves under WSGI as well, no view that blocks its loop holds an
answer up, and it does not end with the loop on which somebody has asked.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading

from streams import threads
from streams.relay import housekeeping
from streams.relay.conf import settings
from streams.relay.worker import STOP_SECONDS, Worker
from streams.runtime import test_run
from streams.runtime.resets import per_process

logger = logging.getLogger("streams.relay")

# A worker that has nothing to do ends after this time.
LINGER_SECONDS = 3.0


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
        if settings.GENERATION_WORKER != "server" or test_run.strategy().is_wrapped():
            return  # another thread could not see the rows of the test's transaction
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
            await worker.run(linger=test_run.strategy().linger_seconds(LINGER_SECONDS))
        finally:
            with self._lock:
                self._loop = self._worker = None


def call() -> None:
    """See Background.call()."""
    _background.call()


def forget(id: str) -> None:
    """See Background.forget()."""
    _background.forget(id)


def stop() -> None:
    """See Background.stop()."""
    _background.stop()


async def attend_periodically() -> None:
    """Interrupt the answers that dead workers have left, and take up those that wait. See housekeeping."""
    if found := await threads.run(housekeeping.look, pool=threads.PERIODIC):
        # Ending an answer can wait for a lock, and the one thread of PERIODIC must not wait.
        is_waiting = await threads.run(housekeeping.settle, found, pool=threads.WAITING)
        if is_waiting:
            call()


async def tidy_periodically() -> None:
    """Run housekeeping.tidy() away from the event loop."""
    await threads.run(housekeeping.tidy, pool=threads.WAITING)


_background = per_process(Background)
atexit.register(stop)
