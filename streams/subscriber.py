"""A subscriber: one open stream, and what its client has had. An async iterator of bytes, bounded in what it holds.

It knows two states. *Behind*, it reads by its cursor, from the hub's window or from the log. *Live*, the hub pushes
frames into its queue. A stream begins behind, becomes live in the instant in which its cursor is the hub's position,
and falls behind again when its queue overflows: joining, overflow and recovery are the same few lines.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar
from weakref import WeakSet

from django.db import Error
from django.http import HttpRequest

from streams import log, outages, sse
from streams.admission import Admission
from streams.conf import settings
from streams.events import encode_data
from streams.exceptions import LogUnavailable, NotMigrated
from streams.feed import CLOSE_SECONDS
from streams.hub import Hub
from streams.places import Place
from streams.reads import Stretch, read_stretch
from streams.shutdown import reconnect_hint
from streams.window import Frame

T = TypeVar("T")
logger = logging.getLogger("streams")

# What one write takes at most, unless a single message is larger: enough to be efficient, little enough that a client
# which stops reading leaves no megabyte in the server's own buffers.
CHUNK_BYTES = 65_536

# After this time the response starts with a heartbeat, if the first block still waits for its reads.
FIRST_BYTE_SECONDS = 3.0

# A number of more digits is no position that any log has given.
MAX_POSITION_DIGITS = 18

# How much of an id that is no position a reset repeats.
MAX_TOLD_CHARACTERS = 100

# What a client is told whose right to read has ended.
REVOKED = sse.encode(
    '{"code":"revoked","message":"You may not read this any more, or have to ask again."}', event="stream-error"
)

Snapshot = Callable[[], Awaitable[object]]


class Subscriber:
    """One open stream over the log. Iterate it for the bytes to send; then, always, `aclose()`.

    `channels`: checked names, each once. `last_event_id`: what the client sent, as it is; None or "" where it sent
    none. `replay`: how many of the newest messages a client without a cursor gets first. `snapshot`: awaited for the
    state to send in place of history, on a fresh connect and after a reset. `request`: for the receivers of signals.
    `final_events`: types of messages, not the default one, after which nothing follows in these channels: the stream
    ends with the first of them. `admission`: what may be asked again while the stream lives; None for nothing.
    `place`: given back when it is closed. `caller`: the key by which its reads of the log take turns (see reads.py).

    It is made on an event loop, and iterated by one task there; all its methods are called on that loop.
    """

    # In one piece of memory instead of a dict beside the object: with thousands of streams, what is not in the cache is
    # most of what a delivery costs.
    __slots__ = (
        "__weakref__",
        "_begun",
        "_behind_since",
        "_closed",
        "_disowned",
        "_ends_at",
        "_final",
        "_greeted",
        "_hub",
        "_known_pruned",
        "_last",
        "_live",
        "_loop",
        "_max_bytes",
        "_max_messages",
        "_queue",
        "_queued_bytes",
        "_refused",
        "_replay",
        "_replaying",
        "_requested",
        "_sent_at",
        "_sent_id",
        "_snapshot",
        "_step",
        "_stopped",
        "_stretch",
        "_through",
        "_unsent_bytes",
        "_waiter",
        "_wanted",
        "admission",
        "announced",
        "caller",
        "channels",
        "cursor",
        "number",
        "place",
        "recheck_at",
        "request",
        "start",
    )

    def __init__(
        self,
        channels: Sequence[str],
        *,
        last_event_id: str | None = None,
        replay: int = 0,
        snapshot: Snapshot | None = None,
        request: HttpRequest | None = None,
        final_events: Sequence[str] = (),
        admission: Admission | None = None,
        place: Place | None = None,
        caller: str = "",
    ) -> None:
        if "message" in final_events:
            raise ValueError("The default type, 'message', cannot be a final event; choose another, such as 'done'.")
        self.channels = tuple(channels)
        self.request = request
        self.admission = admission
        self.recheck_at = float("inf")  # in time.monotonic() seconds; the hub's
        self.number = next(_numbers)  # its own in this process, and never used again
        self.announced = False  # by the hub
        self.place = place
        self.caller = caller
        self.start = 0  # the cursor with which the stream began
        self._wanted = frozenset(channels)
        self.cursor = 0  # everything of our channels up to here has been handed out
        self._requested = last_event_id or None
        self._replay = replay
        self._snapshot = snapshot
        # How the bytes of a final event begin: what precedes an event's type is its own business (see sse.encode).
        self._final = tuple(f"event: {name}\n".encode() for name in final_events)
        self._ends_at: int | None = None  # the position of one

        self._hub: Hub | None = None
        self._begun = False
        self._greeted = False  # the response has started
        self._live = False
        self._behind_since = time.monotonic()
        self._step: asyncio.Task[bytes | None] | None = None  # what the stream does while it is not live
        self._stopped = False
        self._refused = False
        self._last = b""  # what is still to be sent once it has been stopped
        self._closed = False
        self._disowned = False
        self._replaying = False  # a client that gave a cursor waits for the checkpoint that ends its replay
        self._stretch: Stretch | None = None
        self._through = 0  # how far the log was read for what is queued
        self._known_pruned: dict[str, int] = {}  # what the client has been told of, by a reset
        self._queue: deque[Frame] = deque()
        self._queued_bytes = 0
        self._unsent_bytes = 0  # handed out, and not yet known to be taken
        self._max_messages = settings.QUEUE_MESSAGES
        self._max_bytes = settings.QUEUE_BYTES

        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bytes] | None = None  # only while live, and the queue empty
        self._sent_id = 0
        self._sent_at = time.monotonic()
        _open.add(self)

    def __aiter__(self) -> Subscriber:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        return self.pending() or self._next()

    def pending(self) -> asyncio.Future[bytes] | None:
        """The next bytes of a live stream, as a future that the hub fulfils; None where the stream is not live.

        A future and no coroutine: every coroutine that a delivery wakes on its way costs, and with thousands of clients
        it is the larger part of what a delivery costs at all.
        """
        self._unsent_bytes = 0  # whoever asks for more has sent what it had
        if self._step is not None:
            return None  # the bytes of the step come first, also if it has made the stream live
        if self.is_complete():
            self._stopped = True
        if not self._live or self._stopped:
            return None
        future: asyncio.Future[bytes] = self._loop.create_future()
        if self._queue:
            self._hand(future, self._take())
        else:
            self._waiter = future
        return future

    def is_complete(self) -> bool:
        """Return True if the client has had the final event: the stream ends for good."""
        return self._ends_at is not None and self.cursor >= self._ends_at

    def is_reading(self) -> bool:
        """Return True while the stream reads the log or takes its snapshot, which can use the request's connections."""
        return self._step is not None

    def has_had(self, position: int) -> bool:
        """Whether this stream has carried the message at `position`, one of its channels', to the server's socket."""
        return self._begun and self.start < position <= self.cursor and not self._unsent_bytes

    def unsent_since(self) -> float | None:
        """Since when, in time.monotonic() seconds, bytes have been handed out that are not known to be sent."""
        return self._sent_at if self._unsent_bytes else None

    async def open(self) -> None:
        """Join the hub, and so fix where a stream without a cursor starts. Iterating does it where this did not.

        Raises what the log raises; then it may be called again.
        """
        if self._hub is None:
            hub = await Hub.join(self)
            if self._closed:  # meanwhile
                hub.leave(self)
                raise StopAsyncIteration
            self._hub = hub
            self.cursor = hub.position

    async def aclose(self) -> None:
        """Leave the hub. May be called at any time, and twice."""
        self._closed = True
        self.stop()
        _open.discard(self)
        self._give_place_back()
        try:
            if (step := self._step) is not None:  # stop() has cancelled it
                await asyncio.wait([step], timeout=CLOSE_SECONDS)
                if step.done() and not step.cancelled():
                    step.exception()  # seen, so that asyncio does not log it
        finally:
            if self._hub is not None:
                self._hub.leave(self)

    def _give_place_back(self) -> None:
        if self.place is not None:
            self.place.release()

    def stop(self, last: bytes = b"") -> None:
        """End the stream, with these bytes: the iterator stops, now or as soon as it is asked again."""
        if not self._stopped:
            self._stopped, self._last = True, last
            if self._step is not None:
                self._step.cancel()  # it can be waiting for its turn to read
        if (waiter := self._idle()) is None:
            return
        if self._last:
            self._hand(waiter, self._last)
            self._last = b""
        else:
            waiter.set_exception(StopAsyncIteration())

    def refuse(self) -> None:
        """End the stream because its client may not read it any more: it is told, and finds out when it comes back."""
        self._refused = True
        self.stop(REVOKED + reconnect_hint())

    # --- Called by the hub ---

    def push(self, frame: Frame, now: float) -> bool:
        """Take a live message. False where the queue is full: then everything in it is dropped, to be read again."""
        # The one method that runs for each delivery: no call that it can do without.
        if self._final:
            if self._ends_at is not None:
                return True  # nothing follows the end
            if frame.data.startswith(self._final):
                self._ends_at = frame.position
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                self.cursor = self._sent_id = frame.position
                self._unsent_bytes = len(frame.data)
                self._sent_at = now
                waiter.set_result(frame.data)
                return True
        size = self._queued_bytes + len(frame.data)
        full = len(self._queue) >= self._max_messages or size + self._unsent_bytes > self._max_bytes
        if full and self._queue:
            self.fall_behind()
            return False
        self._queue.append(frame)
        self._queued_bytes = size
        return True

    def fall_behind(self) -> None:
        """Drop what is queued, and go on from the log by the cursor. The hub demotes whom it makes fall behind."""
        if self._live:
            self._live = False
            self._behind_since = time.monotonic()
        self._stretch = None
        self._through = 0
        self._ends_at = None
        self._queue.clear()
        self._queued_bytes = 0
        if (waiter := self._idle()) is not None:
            self._hand(waiter, sse.HEARTBEAT)  # so that it asks again, and reads on

    def disown(self) -> None:
        """Take note that the cursor is of a history that is lost. The hub makes the stream fall behind next."""
        self._disowned = True

    def beat(self, quiet_since: float) -> None:
        """Send a heartbeat if nothing has been sent since `quiet_since`, in time.monotonic() seconds."""
        if self._sent_at < quiet_since and (waiter := self._idle()) is not None:
            assert self._hub is not None
            # Live and with an empty queue, we have had all there is of our channels, up to the hub's position.
            moved = self._hub.position > self._sent_id
            self._hand(waiter, self._checkpoint(self._hub.position) if moved else sse.HEARTBEAT)

    def _idle(self) -> asyncio.Future[bytes] | None:
        """The future that waits for the next bytes, if there is one; it is no longer ours then."""
        waiter, self._waiter = self._waiter, None
        return None if waiter is None or waiter.done() else waiter

    def _hand(self, waiter: asyncio.Future[bytes], chunk: bytes) -> None:
        self._unsent_bytes = len(chunk)
        self._sent_at = time.monotonic()
        waiter.set_result(chunk)

    # --- The stream ---

    async def _begin(self) -> bytes:
        """The first block: the retry time, and where the stream starts, or why it cannot go on from where it was."""
        await self.open()
        hub = self._hub
        assert hub is not None
        requested = self._requested
        self._replaying = requested is not None or self._replay > 0
        if requested is None:
            if self._replay and self._snapshot is None:
                self.cursor = await self._ask(log.start_of_newest, self.channels, self._replay, self.cursor)
                # What was pruned is no gap to a client that had no cursor.
                self._known_pruned = await self._ask(log.pruned, self.channels, self.cursor)
            await self._look_for_the_end()
            block = self._checkpoint(self.cursor) + await self._take_snapshot()
        elif not (requested.isascii() and requested.isdigit()):
            block = await self._reset("malformed-id", requested)
        elif len(requested) > MAX_POSITION_DIGITS:
            block = await self._reset("unknown-id", requested)
        else:
            self.cursor = int(requested)
            self._disowned = False  # if it was, for the position at which it joined
            # Looked at before the first byte, so that a reset comes before anything else.
            block = await self._look() or self._checkpoint(self.cursor)
        self._begun = True
        self.start = self.cursor
        return f"retry: {settings.RETRY_MILLISECONDS}\n".encode() + block

    async def _next(self) -> bytes:
        """The next bytes of a stream that is not live, up to the moment in which it is, or that has been stopped."""
        # For all the steps that it takes: each can end sooner, and have nothing to send.
        beat_at = time.monotonic() + (settings.HEARTBEAT_SECONDS if self._greeted else FIRST_BYTE_SECONDS)
        while True:
            if (pending := self.pending()) is not None:
                return await pending
            if self._is_overdue():
                self.stop(self._checkpoint(self.cursor) + reconnect_hint())
            chunk: bytes | None
            if self._step is not None:
                chunk = await self._go_on(beat_at)
            elif self._stopped:
                if not self._last:
                    raise StopAsyncIteration
                chunk, self._last = self._last, b""
            else:
                chunk = self._take() if self._queue else await self._go_on(beat_at)
            if chunk is not None:
                self._unsent_bytes = len(chunk)
                self._sent_at = time.monotonic()
                return chunk

    async def _go_on(self, beat_at: float) -> bytes | None:
        """Begin, or read on. Return bytes to send, or None if the queue holds some or the stream is live.

        It is done in a task of its own, because its reads wait for their turn. If it goes on beyond `beat_at`, in
        time.monotonic() seconds, the client gets a heartbeat.
        """
        if (step := self._step) is None:
            step = self._step = self._loop.create_task(self._read_on() if self._begun else self._begin())
        await asyncio.wait([step], timeout=max(0.0, beat_at - time.monotonic()))
        self._greeted = True
        if not step.done():
            return sse.HEARTBEAT
        self._step = None
        if self._refused or (self._stopped and step.cancelled()):
            return None
        try:
            return step.result()
        except Error as error:
            outages.report(logger, "A stream could not read what it needs from the database.")
            if outages.is_not_migrated(error):
                raise NotMigrated(outages.NOT_MIGRATED) from error
            raise LogUnavailable("A stream could not read what it needs from the database.") from error

    def _is_overdue(self) -> bool:
        """Return True if the stream has been behind for too long, and its client can come back with a newer cursor."""
        if self._live or self._stopped or self._step is not None or self.cursor <= self.start:
            return False
        limit = settings.MAX_REPLAY_SECONDS
        return limit is not None and time.monotonic() - self._behind_since > limit

    async def _ask(self, question: Callable[..., T], *args: Any) -> T:
        """Read the log when it is this caller's turn."""
        assert self._hub is not None
        return await self._hub.reads.ask(self.caller, question, *args)

    def _take(self) -> bytes:
        """All that is queued, or as much of it as one write takes."""
        queue = self._queue
        if self._queued_bytes <= CHUNK_BYTES:
            taken = [frame.data for frame in queue]
            self._sent_id = queue[-1].position
            self.cursor = max(self._sent_id, self._through)
            queue.clear()
            self._queued_bytes = 0
            return b"".join(taken)
        taken, size = [], 0
        while not taken or size + len(queue[0].data) <= CHUNK_BYTES:
            frame = queue.popleft()
            taken.append(frame.data)
            size += len(frame.data)
            self._sent_id = self.cursor = frame.position
            if not queue:
                break
        self._queued_bytes -= size
        return b"".join(taken)

    def _checkpoint(self, position: int) -> bytes:
        self.cursor = self._sent_id = position
        return sse.checkpoint(position)

    # --- Behind ---

    async def _read_on(self) -> bytes | None:
        """Queue what comes next by the cursor, or go live. Returns bytes for a reset, and for the end of a replay."""
        hub = self._hub
        assert hub is not None
        if self._stretch is None and (reset := await self._look()) is not None:
            return reset
        if self._stretch is not None:
            stretch, self._stretch = self._stretch, None
            self._fill(stretch.frames, stretch.through)
        elif self.cursor == hub.position:
            # The join: no await between this look at the hub's position and the admission.
            self._live = True
            hub.admit(self)
            if self._replaying:
                self._replaying = False
                return self._checkpoint(self.cursor)
        elif (frames := hub.window.after(self.cursor)) is not None:
            self._fill(frames, hub.position)
        return None

    async def _look(self) -> bytes | None:
        """See to it that the log goes on from the cursor. A reset where it does not.

        Where the window does not reach back to the cursor, the stretch of the log that was read for it is kept.
        """
        hub = self._hub
        assert hub is not None
        if self.cursor > hub.position:
            await hub.catch_up()  # another process may have published what this one has not seen yet
        if self._disowned or self.cursor > hub.position or hub.epochs.is_lost(self.cursor):
            self._disowned = False
            return await self._reset("unknown-id", str(self.cursor))
        if hub.window.after(self.cursor) is None:
            epochs = hub.epochs
            stretch = await self._ask(read_stretch, self.channels, self.cursor, hub.position)
            if self._disowned or hub.epochs is not epochs:
                return await self._look()  # what was read is of the log before
            if any(self._known_pruned.get(channel) != newest for channel, newest in stretch.pruned.items()):
                return await self._reset("pruned", str(self.cursor), pruned=stretch.pruned)
            self._stretch = stretch
        return None

    def _fill(self, frames: Iterable[Frame], through: int) -> None:
        """Queue those of the frames that are of our channels, as many as a queue may hold."""
        for frame in frames:
            if frame.channel not in self._wanted:
                continue
            size = self._queued_bytes + len(frame.data)
            if self._queue and (len(self._queue) >= self._max_messages or size > self._max_bytes):
                through = frame.position - 1
                break
            self._queue.append(frame)
            self._queued_bytes = size
            if self._final and frame.data.startswith(self._final):
                self._ends_at = through = frame.position
                break
        self._through = through
        if not self._queue:
            self.cursor = through

    async def _reset(self, reason: str, requested: str, *, pruned: dict[str, int] | None = None) -> bytes:
        """The block that says that something may have been missed, and from where the stream goes on."""
        hub = self._hub
        assert hub is not None
        if self._snapshot is not None:
            self.cursor = hub.position
        elif pruned is None:
            self.cursor = 0  # no cursor of this log: all that is retained
        # Told of now, and so no gap any more.
        self._known_pruned |= await self._ask(log.pruned, self.channels, self.cursor) if pruned is None else pruned
        told = {
            "reason": reason,
            "requested": requested[:MAX_TOLD_CHARACTERS],
            "earliest": await self._ask(log.earliest, self.channels),
            "head": hub.position,
        }
        self._sent_id = self.start = self.cursor
        await self._look_for_the_end()
        block = sse.encode(json.dumps(told), event="stream-reset", id=self.cursor)
        return block + await self._take_snapshot()

    async def _look_for_the_end(self) -> None:
        """Whether the end lies behind the cursor, which is not the client's own and has skipped messages."""
        if self._final:
            newest = await self._ask(log.newest_of, self.channels)
            if newest is not None and newest.position <= self.cursor and newest.encode().startswith(self._final):
                self._ends_at = newest.position

    async def _take_snapshot(self) -> bytes:
        if self._snapshot is None:
            return b""
        # The cursor was taken before: what is published while the snapshot is made comes after it, maybe twice in
        # effect, never not at all.
        state = await self._snapshot()
        return sse.encode(encode_data(state, max_bytes=None), event="stream-snapshot", id=self.cursor)


def is_position(text: str) -> bool:
    """Whether a Last-Event-ID may be one that a log has given."""
    return text.isascii() and text.isdigit() and len(text) <= MAX_POSITION_DIGITS


def open_streams() -> int:
    """How many subscribers this process has, of all its event loops; those that have not sent a byte yet included."""
    for left in [subscriber for subscriber in _open if subscriber._loop.is_closed()]:
        _open.discard(left)  # its loop ended before it was closed, as tests' loops do
        left._give_place_back()
    return len(_open)


_open: WeakSet[Subscriber] = WeakSet()
_numbers = itertools.count(1)
