"""The worker inside a server process: a thread with its own event loop, which runs while there is something to do.

It is not a task of the server's event loop for three reasons: it also works under WSGI, a view that blocks the server's
loop does not delay answers, and it does not end with the loop of the request that started it.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading

from streams.http import shutdown
from streams.relay.conf import settings
from streams.relay.generations import housekeeping
from streams.relay.generations.worker import STOP_SECONDS, Worker
from streams.relay.models import Generation
from streams.runtime import executor, test_run
from streams.runtime.request_resources import request_context
from streams.runtime.resets import per_process
from streams.runtime.tasks import start_thread

logger = logging.getLogger("streams.relay")

# A worker ends after this time without work.
LINGER_SECONDS = 3.0


class Background:
    """Runs at most one worker in this process. All methods can be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: Worker | None = None
        self._called = False  # since the worker began
        self._stopped = False

    def call(self) -> None:
        """Start or wake the worker, because a generation waits. Does nothing if GENERATION_WORKER is not "server"."""
        if settings.GENERATION_WORKER != "server" or test_run.strategy().is_wrapped():
            return  # another thread cannot read rows of a test's transaction
        with self._lock:
            if self._stopped:
                return
            self._called = True
            if self._thread is None:
                # Raises if the system has no more threads.
                self._thread = start_thread(self._serve, "streams-generations")
            elif self._loop is not None and self._worker is not None:
                self._loop.call_soon_threadsafe(self._worker.call)

    def forget(self, id: str) -> None:
        """Cancel the upstream of a generation that was ended from outside, without waiting for the next renewal."""
        with self._lock:
            if self._loop is not None and self._worker is not None:
                self._loop.call_soon_threadsafe(self._worker.forget, id)

    def stop(self) -> None:
        """Interrupt running answers and store their end. Called when the process ends; no worker starts afterwards."""
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
                # call() can have been called since the worker looked for the last time.
                if self._stopped or not self._called:
                    self._thread = None
                    return

    async def _run(self) -> None:
        worker = Worker(look_seconds=LINGER_SECONDS / 3)  # rarely, because call() wakes it
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
    """Start the worker if needed, because a generation waits. See Background.call()."""
    if request_context() is not None:
        shutdown.listen()  # so that the worker can report interruptions, even if no stream was opened in this process
    _background.call()


def call_for(generation: Generation) -> None:
    """Call the worker if the generation waits for one: the process that took the request might have ended."""
    if generation.state == Generation.State.QUEUED:
        call()


async def reap_periodically() -> None:
    """End generations without a worker, and start the worker if one waits. Every process with streams runs this."""
    if found := await executor.run(housekeeping.look, pool=executor.PERIODIC):
        # Ending a generation can wait for a lock, and the only thread of PERIODIC must not wait.
        is_waiting = await executor.run(housekeeping.settle, found, pool=executor.WAITING)
        if is_waiting:
            call()


_background = per_process(Background)
forget = _background.forget
stop = _background.stop
atexit.register(stop)
