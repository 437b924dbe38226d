"""The part of a subscriber that is live: it passes on what the hub delivers, and queues what the server cannot take.

Bytes reach the server in one of two ways. The task that iterates the stream waits for a future, wakes, and sends. Or,
if the server allows it, the hub calls the server's `send` itself, and that task goes on waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from streams.delivery.cohorts import Batch
from streams.delivery.replay import Replay
from streams.delivery.window import Frame
from streams.http.serving import Send
from streams.protocol import sse


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class Live(Replay):
    """The queue of a stream, and the way to the server. See Subscriber."""

    _live: bool = False
    _behind_since: float = field(default_factory=time.monotonic)
    _step: asyncio.Task[bytes | None] | None = None  # the work of a stream that is not live
    _stopped: bool = False
    _last: bytes = b""  # bytes to send after it has been stopped
    _unsent_bytes: int = 0  # handed out, and not known to be taken yet
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _waiter: asyncio.Future[bytes] | None = None  # only while it is live and the queue is empty
    _send: Send | None = None  # the request's, if the server takes bytes from any task
    _sending: asyncio.Task[None] | None = None  # the server is still taking bytes that were passed on
    _sent_at: float = field(default_factory=time.monotonic)

    def pending(self) -> asyncio.Future[bytes] | None:
        """Return a future of the next bytes, which the hub fulfils; None if the stream is not live.

        It is not a coroutine: with thousands of clients, waking coroutines would be most of the cost of a delivery.
        """
        self._unsent_bytes = 0  # the caller has sent the bytes that it got before
        if self._step is not None:
            return None  # the bytes of the step come first, even if it has made the stream live
        if self.is_complete():
            self._stopped = True
        if not (self._live or self._stopped or self._queue):
            self._join_at_once()
        if not self._live or self._stopped:
            return None
        future: asyncio.Future[bytes] = self._loop.create_future()
        if self._queue:
            self._hand(future, self._take())
        else:
            self._waiter = future
        return future

    def send_directly(self, send: Send) -> None:
        """From now on, pass live messages to the server without waking the task that iterates."""
        if not self._final:  # after a final event, that task ends the response
            self._send = send

    def unsent_since(self) -> float | None:
        """Return when bytes were handed out that are not known to be sent, in time.monotonic() seconds, or None."""
        return self._sent_at if self._unsent_bytes else None

    # --- Called by the hub ---

    def deliver(self, batch: Batch, now: float) -> bool:
        """Take live messages. If the queue is full, drop them, to be read from the log again, and return False."""
        # This method runs for each delivery: avoid every call that it can do without.
        if batch.first <= self.cursor or self._final:
            if not (frames := self._wanted_of(batch)):
                return True
            batch = Batch.of(frames)
        waiter = self._waiter
        if waiter is None or self._sending is not None or waiter.done():
            return self._enqueue(batch.frames)
        self.cursor = self._sent_id = batch.last
        self._sent_at = now
        if (send := self._send) is None:
            self._waiter = None
            self._unsent_bytes = len(batch.data)
            waiter.set_result(batch.data)
            return True
        # Pass the bytes on to the server, without waking the task that waits for them. Usually it takes them at once.
        step = send(batch.event).__await__()
        try:
            awaited = next(step)
        except StopIteration:
            return True
        except Exception:
            self._leave_to_task(batch.data)
            return True
        # The client reads too slowly, so the server waits. A task finishes this.
        self._unsent_bytes = len(batch.data)
        self._sending = self._loop.create_task(_finish(step, awaited))
        self._sending.add_done_callback(self._on_sent)
        return True

    def _wanted_of(self, batch: Batch) -> list[Frame]:
        """Return the frames that the stream has not read before it went live, up to the final event."""
        wanted = []
        for frame in batch.frames:
            if self._ends_at is not None:
                break  # nothing follows the end
            if frame.position > self.cursor:
                wanted.append(frame)
                if self._final and frame.data.startswith(self._final):
                    self._ends_at = frame.position
        return wanted

    def _enqueue(self, frames: Sequence[Frame]) -> bool:
        for frame in frames:
            size = self._queued_bytes + len(frame.data)
            full = len(self._queue) >= self._max_messages or size + self._unsent_bytes > self._max_bytes
            if full and self._queue:
                self.fall_behind()
                return False
            self._queue.append(frame)
            self._queued_bytes = size
        return True

    def _on_sent(self, sending: asyncio.Task[None]) -> None:
        self._sending = None
        self._unsent_bytes = 0
        if sending.cancelled():
            return
        if sending.exception() is not None:
            self._leave_to_task(sse.HEARTBEAT)
        elif (waiter := self._idle()) is None:
            return
        elif self._stopped:
            self._end(waiter)
        elif self._queue:
            self._hand(waiter, self._take())
        elif self._live:
            self._waiter = waiter
        else:
            self._hand(waiter, sse.HEARTBEAT)  # as in fall_behind()

    def _leave_to_task(self, chunk: bytes) -> None:
        """Have the waiting task send: if the server raises an exception, it raises it there."""
        self._send = None
        if (waiter := self._idle()) is not None:
            self._hand(waiter, chunk)

    def fall_behind(self) -> None:
        """Drop the queue, and go on from the log by the cursor. The caller detaches the stream from the hub."""
        if self._live:
            self._live = False
            self._behind_since = time.monotonic()
        self._page = None
        self._through = 0
        self._ends_at = None
        self._queue.clear()
        self._queued_bytes = 0
        if (waiter := self._idle()) is not None:
            self._hand(waiter, sse.HEARTBEAT)  # so that the server asks again, and the stream reads on

    def beat(self, quiet_since: float) -> None:
        """Send a heartbeat if nothing has been sent since `quiet_since`, in time.monotonic() seconds."""
        if self._sent_at >= quiet_since or self._waiter is None or not self._hub.has_handed_all(self.channels):
            return
        if (waiter := self._idle()) is not None:
            # It is live, and its queue is empty: it has sent all messages of its channels up to the hub's position.
            moved = self._hub.position > self._sent_id
            self._hand(waiter, self._checkpoint(self._hub.position) if moved else sse.HEARTBEAT)

    def _idle(self) -> asyncio.Future[bytes] | None:
        """Return the future that waits for the next bytes, if there is one, and forget it."""
        if self._sending is not None:
            return None  # what is being sent comes first: see _on_sent()
        waiter, self._waiter = self._waiter, None
        return None if waiter is None or waiter.done() else waiter

    def _hand(self, waiter: asyncio.Future[bytes], chunk: bytes) -> None:
        self._unsent_bytes = len(chunk)
        self._sent_at = time.monotonic()
        waiter.set_result(chunk)

    def stop(self, last: bytes = b"") -> None:
        """End the stream after the bytes `last`: the iterator stops, now or when it is asked again."""
        if not self._stopped:
            self._stopped, self._last = True, last
            if self._step is not None:
                self._step.cancel()  # it can be waiting for its turn to read
        if (waiter := self._idle()) is not None:
            self._end(waiter)

    def _end(self, waiter: asyncio.Future[bytes]) -> None:
        if self._last:
            self._hand(waiter, self._last)
            self._last = b""
        else:
            waiter.set_exception(StopAsyncIteration())


async def _finish(step: Generator[Any, None, None], awaited: Any) -> None:
    await _Rest(step, awaited)


@dataclass(slots=True)
class _Rest:
    """The rest of a coroutine that has run until it yielded `awaited` to the event loop."""

    step: Generator[Any, None, None]
    awaited: Any

    def __await__(self) -> Generator[Any, None, None]:
        try:
            yield self.awaited
        except BaseException:
            self.step.close()
            raise
        yield from self.step
