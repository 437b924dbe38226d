"""A subscriber: one open stream. It is an async iterator of bytes with bounded buffers.

It has two states. *Behind*, it reads by its cursor, from the hub's window or from the log. *Live*, the hub delivers to
it, and what the server cannot take yet waits in its queue. A stream begins behind. It becomes live when its cursor
equals the hub's position, and falls behind again when its queue overflows: joining, overflow and recovery are the same
code.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import ClassVar
from weakref import WeakKeyDictionary, WeakSet

from django.db import Error
from django.http import HttpRequest

from streams.access.admission import Admission
from streams.conf import settings
from streams.delivery.hub import Hub
from streams.delivery.live import Live
from streams.delivery.replay import Replay
from streams.exceptions import LogUnavailable, NotMigrated
from streams.http.shutdown import reconnect_hint
from streams.http.source import CLOSE_SECONDS
from streams.presence.slots import Slot
from streams.protocol import sse
from streams.runtime import failures
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams")

# After this time the response starts with a heartbeat, if the first block still waits for its reads.
FIRST_BYTE_SECONDS = 3.0

# The event for a client that is no longer authorized.
REVOKED = sse.encode(
    '{"code":"revoked","message":"You can no longer read this, or must request it again."}', event="stream-error"
)


# Slots: one piece of memory instead of a dict beside the object. With thousands of streams, most of the cost of a
# delivery are cache misses.
@dataclass(slots=True, weakref_slot=True, eq=False, repr=False, kw_only=True)
class Subscriber(Live):
    """One open stream over the log. Iterate it for the bytes to send, and always call `aclose()` at the end.

    Args:
        channels: checked names, each once.
        last_event_id: the cursor as the client sent it, not checked; None or "" without one.
        replay: how many of the newest messages a client without a cursor gets first.
        snapshot: awaited for the state to send instead of history, on a fresh connect and after a reset.
        request: for the receivers of signals.
        final_events: types of messages, not the default one, after which no message follows in these channels. The
            stream ends with the first of them.
        admission: the decision that is checked again while the stream is open; None for none.
        slot: released when the stream is closed.
        caller: the key by which its reads of the log take turns (see delivery/reads.py).

    Create it on an event loop, and iterate it there in one task. All its methods are called on that loop.
    """

    is_counted: ClassVar[bool] = True

    request: HttpRequest | None = None
    admission: Admission | None = None
    slot: Slot | None = None

    # --- State ---
    kind: ClassVar[str] = "log"
    stop_reason: str = ""
    recheck_at: float = float("inf")  # in time.monotonic() seconds; set by the rechecks
    number: int = field(default_factory=itertools.count(1).__next__)  # unique in this process
    announced: bool = False  # set by the hub
    _greeted: bool = False  # the response has started
    _revoked: bool = False
    _closed: bool = False

    def __post_init__(self) -> None:
        Replay.__post_init__(self)  # super() does not work in a dataclass with slots before Python 3.14
        _open.setdefault(self._loop, WeakSet()).add(self)

    def __aiter__(self) -> Subscriber:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        return self.pending() or self._next()

    def is_reading(self) -> bool:
        """Return True while the stream reads the log or takes its snapshot, which can use the request's connections."""
        return self._step is not None

    def has_received(self, position: int) -> bool:
        """Return True if the server has taken the message at `position`, which is in one of the stream's channels."""
        return self._begun and self.start < position <= self.cursor and not self._unsent_bytes

    async def open(self) -> None:
        """Join the hub, which sets the start of a stream without a cursor. Otherwise the iteration does it.

        Raises the errors of the log; it can be called again after one.
        """
        if self._hub is None:
            hub = await Hub.join(self)
            if self._closed:  # in the meantime
                hub.leave(self)
                raise StopAsyncIteration
            self._hub = hub
            self.cursor = hub.position

    async def aclose(self) -> None:
        """Leave the hub. Can be called at any time, and twice."""
        self._closed = True
        self.stop()
        _open.get(self._loop, WeakSet()).discard(self)
        self._release_slot()
        try:
            if self._sending is not None:
                self._sending.cancel()
            if (step := self._step) is not None:  # stop() has cancelled it
                await asyncio.wait([step], timeout=CLOSE_SECONDS)
                if step.done() and not step.cancelled():
                    step.exception()  # so that asyncio does not log it
        finally:
            if self._hub is not None:
                self._hub.leave(self)

    def _release_slot(self) -> None:
        if self.slot is not None:
            self.slot.release()

    def revoke(self) -> None:
        """End the stream because its client is no longer authorized. It gets a `stream-error`."""
        self._revoked = True
        if not self._stopped:
            self.stop_reason = "revoked"
            extra = fields(event="stream-revoked", channels=[*self.channels])
            logger.info("Ended a stream whose client can no longer read it.", extra=extra)
        self.stop(REVOKED + reconnect_hint())

    # --- The stream ---

    async def _next(self) -> bytes:
        """Return the next bytes of a stream that is not live yet, or that has been stopped."""
        # One deadline for all steps: each of them can end sooner without bytes to send.
        beat_at = time.monotonic() + (settings.HEARTBEAT_SECONDS if self._greeted else FIRST_BYTE_SECONDS)
        while True:
            if (pending := self.pending()) is not None:
                return await pending
            if self._is_overdue():
                self.stop_reason = "behind"
                self.stop(self._checkpoint(self.cursor) + reconnect_hint())
            chunk: bytes | None
            if self._step is None and self._stopped:
                if not self._last:
                    raise StopAsyncIteration
                chunk, self._last = self._last, b""
            elif self._step is None and self._queue:
                chunk = self._take()
            elif self._step is None and (block := self._begin_at_once()) is not None:
                self._greeted, chunk = True, block
            else:
                chunk = await self._go_on(beat_at)
            if chunk is not None:
                self._unsent_bytes = len(chunk)
                self._sent_at = time.monotonic()
                return chunk

    async def _go_on(self, beat_at: float) -> bytes | None:
        """Begin, or read on. Return bytes to send, or None if the queue holds some or the stream is live.

        It runs in a task of its own, because its reads wait for their turn. If it takes longer than until `beat_at`, in
        time.monotonic() seconds, the client gets a heartbeat.
        """
        if (step := self._step) is None:
            step = self._step = self._loop.create_task(self._read_on())
        await asyncio.wait([step], timeout=max(0.0, beat_at - time.monotonic()))
        self._greeted = True
        if not step.done():
            return sse.HEARTBEAT
        self._step = None
        if self._revoked or (self._stopped and step.cancelled()):
            return None
        try:
            return step.result()
        except Error as error:
            failures.report(logger, "A stream could not read what it needs from the database.")
            if failures.is_not_migrated(error):
                raise NotMigrated(failures.NOT_MIGRATED) from error
            raise LogUnavailable("A stream could not read what it needs from the database.") from error

    def _is_overdue(self) -> bool:
        """Return True if the stream has been behind for too long, and its client has a newer cursor to return with."""
        if self._live or self._stopped or self._step is not None or self.cursor <= self.start:
            return False
        limit = settings.MAX_REPLAY_SECONDS
        return limit is not None and time.monotonic() - self._behind_since > limit

    def _go_live(self, hub: Hub) -> None:
        self._live = True
        hub.attach(self)


def open_streams() -> int:
    """Return the number of subscribers on all event loops of this process. Some can be without a first byte."""
    forget_ended_loops()
    return sum(len(subscribers) for subscribers in _open.values())


def forget_ended_loops() -> bool:
    """Release the slots of streams whose event loop has ended, as in tests. Return True if there were such loops."""
    ended = [loop for ref in _open.keyrefs() if (loop := ref()) is not None and loop.is_closed()]
    for loop in ended:
        for subscriber in _open.pop(loop, ()):
            subscriber._release_slot()
    return bool(ended)


_open: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakSet[Subscriber]] = WeakKeyDictionary()
