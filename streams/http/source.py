"""The sources of a response: the interface, and the one for a view's own async iterator.

IteratorSource encodes the iterator's items, sends heartbeats while it is silent, and always closes it. A Subscriber
is a source itself.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from streams.protocol import sse
from streams.protocol.events import Event

logger = logging.getLogger("streams")

# How long an iterator can take to clean up. After that, it is left to itself, and the log has an error.
CLOSE_SECONDS = 5.0

# How many of the last bytes show whether an event has ended: a line end and a blank line.
TAIL_BYTES = 3


class Closable(Protocol):
    async def aclose(self) -> None:
        """Release all resources. Can be called at any time, even before the first byte, and twice."""


class Source(Closable, Protocol):
    """An async iterator of bytes, including heartbeats, that other code can end.

    kind: One of telemetry.recorder.SOURCES.
    stop_reason: One of telemetry.recorder.END_REASONS if the source has stopped by itself before its end; otherwise "".
    """

    kind: str
    stop_reason: str

    def __anext__(self) -> Awaitable[bytes]: ...

    def pending(self) -> asyncio.Future[bytes] | None:
        """Return a future of the next bytes, as a shortcut around __anext__(), or None if the source has none."""
        return None

    def send_directly(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Send without the task that iterates, if the source can, while that task waits for a pending() future."""
        return  # the source cannot

    def unsent_since(self) -> float | None:
        """Return when pending() handed out bytes that have not been taken yet, or None."""
        return None

    def is_complete(self) -> bool:
        """Return True if the source has sent everything, so that the stream ends by itself."""

    def is_reading(self) -> bool:
        """Return True while the source can use the request's threads and connections."""

    def stop(self, last: bytes = b"") -> None:
        """End the iteration, at once if it is waiting. The lines `last` are sent before, if no event is unfinished."""


def is_source(items: object) -> bool:
    """Return True if `items` is a Source. isinstance() would look at each member every time, and is slow."""
    kind: Any = type(items)
    return _has_members(kind)


@functools.lru_cache(maxsize=64)
def _has_members(kind: type) -> bool:
    return all(hasattr(kind, name) for name in ("pending", "is_complete", "is_reading", "kind", "stop_reason"))


def encode_item(item: Any) -> bytes:
    """Return an iterator's item as bytes: an Event by its fields, bytes unchanged, anything else as an event's data."""
    if isinstance(item, bytes):
        return item
    return (item if isinstance(item, Event) else Event(item)).encode()


class IteratorSource(Source):
    """Iterates `items` in a task of its own, one step for each chunk that is asked for.

    It is one task, because cancel scopes, timeouts and context variables inside an async generator break if its steps
    run in different tasks. It is a task of its own, because a step must go on when a heartbeat is due.
    """

    kind = "iterator"
    stop_reason = ""

    def __init__(self, items: AsyncIterator[Any], heartbeat_seconds: float) -> None:
        self._items = items
        self._heartbeat_seconds = heartbeat_seconds
        self._task: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self._answer: asyncio.Future[bytes | None] | None = None  # None: the end
        self._begun = False  # the task runs, and closes the iterator at its end
        self._stopped = False
        self._complete = False
        self._last = b""  # bytes to send after it has been stopped
        self._tail = b"\n\n"  # the last bytes that were sent; a chunk can be any part of an event

    def __aiter__(self) -> IteratorSource:
        return self

    async def __anext__(self) -> bytes:
        if self._stopped:
            if not self._last:
                raise StopAsyncIteration
            last, self._last = self._last, b""
            return last
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            # At once, so that no server or proxy holds the headers back until the first event.
            return sse.HEARTBEAT
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
            self._asked.set()
        while not (await asyncio.wait([self._answer], timeout=self._heartbeat_seconds))[0]:
            if _ends_event(self._tail):
                return sse.HEARTBEAT
        chunk, self._answer = self._answer.result(), None
        if chunk is None:
            self._complete, self._stopped = not self._stopped, True
            raise StopAsyncIteration
        if not (_ends_event(self._tail) and _is_comment(chunk)):
            self._tail = (self._tail + chunk[-TAIL_BYTES:])[-TAIL_BYTES:]
        return chunk

    def is_complete(self) -> bool:
        """Return True if the iterator has come to its own end."""
        return self._complete

    def is_reading(self) -> bool:
        return False  # release_request() sees by itself whether the iterator is busy

    def stop(self, last: bytes = b"") -> None:
        if not self._stopped:
            self._stopped = True
            self._last = last if _ends_event(self._tail) else b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._last or None)
            self._last = b""

    async def aclose(self) -> None:
        self.stop()
        if not self._begun:
            self._begun = True
            if self._task is not None:
                self._task.cancel()  # before its first step, so that none of its code runs
            await _close(self._items)
        elif self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
            if not self._task.done():
                logger.error(
                    "%r did not end within %s s of being cancelled; left to itself.", self._items, CLOSE_SECONDS
                )

    async def _run(self) -> None:
        self._begun = True
        try:
            while True:
                await self._asked.wait()
                self._asked.clear()
                answer: bytes | Exception | None
                try:
                    answer = encode_item(await anext(self._items))
                except StopAsyncIteration:
                    answer = None
                except asyncio.CancelledError as error:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    # This task was not cancelled: the iterator awaited something that other code had cancelled.
                    answer = RuntimeError(f"{self._items!r} was cancelled from within.")
                    answer.__cause__ = error
                except Exception as error:
                    answer = error
                if self._answer is not None and not self._answer.done():  # else it was stopped in the meantime
                    if isinstance(answer, Exception):
                        self._answer.set_exception(answer)
                    else:
                        self._answer.set_result(answer)
                if not isinstance(answer, bytes):
                    return
        finally:
            await _close(self._items)


def _ends_event(tail: bytes) -> bool:
    """Return True if this tail ends with a blank line whose line end cannot be the first half of a CRLF."""
    return tail.endswith((b"\n\n", b"\r\r", b"\n\r\n", b"\r\r\n"))


def _is_comment(chunk: bytes) -> bool:
    return chunk.startswith(b":") and chunk.endswith(b"\n") and chunk.count(b"\n") == 1


async def _close(items: AsyncIterator[Any]) -> None:
    if (close := getattr(items, "aclose", None)) is not None:
        try:
            await close()
        except Exception:
            logger.exception("Closing %r failed.", items)
