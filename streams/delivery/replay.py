"""The part of a subscriber that reads: the start of a stream, the pages of the log that follow, and resets."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeVar

from streams import log
from streams.conf import settings
from streams.delivery.cohorts import CHUNK_BYTES
from streams.delivery.hub import Hub
from streams.delivery.reads import FramePage, read_page
from streams.delivery.window import Frame
from streams.log import reading
from streams.protocol import sse
from streams.protocol.events import encode_data
from streams.protocol.sse import is_position
from streams.telemetry import recorder
from streams.telemetry.log_fields import fields

T = TypeVar("T")
logger = logging.getLogger("streams")

# How many characters of an invalid id a reset repeats.
MAX_REQUESTED_CHARACTERS = 100

Snapshot = Callable[[], Awaitable[object]]


@dataclass(slots=True, eq=False, repr=False)
class Replay:
    """The cursor of a stream, its queue, and the reads of the log that fill it. See Subscriber for the arguments."""

    channels: tuple[str, ...]
    _: KW_ONLY
    last_event_id: str | None = None
    replay: int = 0
    snapshot: Snapshot | None = None
    final_events: Sequence[str] = ()
    caller: str = ""
    preamble: bytes = b""  # an event without an id, sent before everything else

    # --- State ---
    cursor: int = 0  # all messages of these channels up to here have been handed out
    start: int = 0  # the cursor with which the stream began
    _hub: Hub = None  # type: ignore[assignment]  # set by open()
    _wanted: frozenset[str] = frozenset()
    _final: tuple[bytes, ...] = ()  # the first bytes of a final event (see sse.encode)
    _ends_at: int | None = None  # the position of a final event
    _begun: bool = False
    _replaying: bool = False  # the client waits for the checkpoint that ends its replay
    _replaced: bool = False  # the cursor belongs to a history that is lost
    _page: FramePage | None = None  # the next page of the log, already read
    _page_messages: int = field(default_factory=lambda: min(reading.PAGE_MESSAGES, settings.QUEUE_MESSAGES))
    _known_pruned: dict[str, int] = field(default_factory=dict)  # pruned messages that a reset has reported
    _sent_id: int = 0
    _queue: list[Frame] = field(default_factory=list)  # an empty deque has 600 bytes more
    _queued_bytes: int = 0
    _through: int = 0  # the position up to which the log was read for the queue
    _max_messages: int = field(default_factory=lambda: settings.QUEUE_MESSAGES)
    _max_bytes: int = field(default_factory=lambda: settings.QUEUE_BYTES)

    def __post_init__(self) -> None:
        if "message" in self.final_events:
            raise ValueError("The default type, 'message', cannot be a final event; choose another, such as 'done'.")
        self.channels = tuple(self.channels)
        self._wanted = frozenset(self.channels)
        self._final = tuple(f"event: {name}\n".encode() for name in self.final_events)

    def log_replaced(self) -> None:
        """Note that the cursor belongs to a history that is lost. Called by the hub, which sends the stream back."""
        self._replaced = True

    def is_complete(self) -> bool:
        """Return True if the client has received the final event: the stream ends, and is not to be reopened."""
        return self._ends_at is not None and self.cursor >= self._ends_at

    async def open(self) -> None:
        raise NotImplementedError

    def _go_live(self, hub: Hub) -> None:
        raise NotImplementedError

    async def _begin(self) -> bytes:
        """Return the first block: the retry time, and the cursor at which the stream starts, or a reset."""
        await self.open()
        requested = self.last_event_id
        self._replaying = bool(requested) or self.replay > 0
        if not requested:
            if self.replay and self.snapshot is None:
                self.cursor = await self._ask(log.start_of_newest, self.channels, self.replay, self.cursor)
                # A client without a cursor has missed nothing that was pruned.
                self._known_pruned = await self._ask(log.pruned, self.channels, self.cursor)
            await self._find_end()
            block = self._checkpoint(self.cursor) + await self._take_snapshot()
        elif not (requested.isascii() and requested.isdigit()):
            block = await self._reset("malformed-id", requested)
        elif not is_position(requested):
            block = await self._reset("unknown-id", requested)
        else:
            self.cursor = int(requested)
            self._replaced = False  # that was about the position at which it joined
            # Before the first byte, because a reset must come before anything else.
            block = await self._check_cursor() or self._checkpoint(self.cursor)
        self._begun = True
        self.start = self.cursor
        if self._replaying and self.cursor < self._hub.position:
            is_far = self._page is not None or self._hub.window.after(self.cursor) is None
            recorder.current.replay_began("log" if is_far else "memory")
        return self._first_block(block)

    def _first_block(self, block: bytes) -> bytes:
        return f"retry: {settings.RETRY_MILLISECONDS}\n".encode() + self.preamble + block

    # Most streams start at the hub's position, so that the next two need no read and no task.

    def _begin_at_once(self) -> bytes | None:
        """Do what _begin() does, for an open stream that has nothing to read first. Return None for any other one."""
        if self._begun or self._hub is None or self.last_event_id or self.replay or self.snapshot or self._final:
            return None
        self._begun = True
        self.start = self.cursor
        return self._first_block(self._checkpoint(self.cursor))

    def _join_at_once(self) -> None:
        """Go live as _read_on() does, if the cursor is at the hub's position and no checkpoint is to be sent first."""
        hub, cursor = self._hub, self.cursor
        if not self._begun or self._page is not None or self._replaying or self._replaced or cursor != hub.position:
            return
        if hub.window.after(cursor) is not None and not hub.epochs.is_lost(cursor):
            self._go_live(hub)

    async def _read_on(self) -> bytes | None:
        """Queue the next messages by the cursor, or go live. Return the first block, a reset or the end of a replay."""
        if not self._begun:
            return await self._begin()
        hub = self._hub
        if self._page is None and (reset := await self._check_cursor()) is not None:
            return reset
        if (page := self._page) is not None:
            self._page = None
            self._fill(page.frames, page.through)
        elif self.cursor == hub.position:
            # The join: there must be no await between this comparison with the hub's position and attach().
            self._go_live(hub)
            if self._replaying:
                self._replaying = False
                return self._checkpoint(self.cursor)
        elif (frames := hub.window.after(self.cursor)) is not None:
            self._fill((frame for frame in frames if frame.channel in self._wanted), hub.position)
        return None

    async def _check_cursor(self) -> bytes | None:
        """Return a reset if the log does not continue from the cursor.

        If the window does not reach back to the cursor, this reads a page of the log, and keeps it.
        """
        hub = self._hub
        if self.cursor > hub.position:
            await hub.catch_up()  # another process can have published messages that this one has not seen yet
        if self._replaced or self.cursor > hub.position or hub.epochs.is_lost(self.cursor):
            self._replaced = False
            return await self._reset("unknown-id", str(self.cursor))
        if hub.window.after(self.cursor) is None:
            epochs = hub.epochs
            frame_bytes = min(CHUNK_BYTES, self._max_bytes) if self._may_join_messages() else 0
            page = await self._ask(
                read_page, self.channels, self.cursor, hub.position, self._page_messages, frame_bytes
            )
            if self._replaced or hub.epochs is not epochs:
                return await self._check_cursor()  # the page is of the log before
            if any(self._known_pruned.get(channel) != newest for channel, newest in page.pruned.items()):
                return await self._reset("pruned", str(self.cursor), pruned=page.pruned)
            self._page = page
            # The next page is longer if this one was full of small messages.
            longest = reading.LONG_PAGE_MESSAGES if page.is_full else reading.PAGE_MESSAGES
            self._page_messages = min(4 * self._page_messages, longest, self._max_messages)
        return None

    def _may_join_messages(self) -> bool:
        """Return True if a frame can hold several messages: no code looks at each of them."""
        return not self._final

    def _fill(self, frames: Iterable[Frame], through: int) -> None:
        """Queue the frames, as many as the queue can hold."""
        messages, size_before = 0, self._queued_bytes
        for frame in frames:
            size = self._queued_bytes + len(frame.data)
            if self._queue and (len(self._queue) >= self._max_messages or size > self._max_bytes):
                through = self._queue[-1].position
                break
            self._queue.append(frame)
            self._queued_bytes = size
            messages += frame.messages
            if self._final and frame.data.startswith(self._final):
                self._ends_at = through = frame.position
                break
        self._through = through
        if not self._queue:
            self.cursor = through
        elif messages:
            recorder.current.replayed(messages, self._queued_bytes - size_before)

    def _take(self) -> bytes:
        """Take the queued bytes, as many as one write takes."""
        return b"".join([frame.data for frame in self._take_frames()])

    def _take_frames(self) -> list[Frame]:
        queue = self._queue
        if self._queued_bytes <= CHUNK_BYTES:
            self._sent_id = queue[-1].position
            self.cursor = max(self._sent_id, self._through)
            self._queue, self._queued_bytes = [], 0
            return queue
        count, size = 1, len(queue[0].data)
        while count < len(queue) and size + len(queue[count].data) <= CHUNK_BYTES:
            size += len(queue[count].data)
            count += 1
        self._sent_id = self.cursor = queue[count - 1].position
        self._queue, self._queued_bytes = queue[count:], self._queued_bytes - size
        return queue[:count]

    async def _reset(self, reason: str, requested: str, *, pruned: dict[str, int] | None = None) -> bytes:
        """Return a block that reports possibly missed messages, and the cursor at which the stream goes on."""
        recorder.current.reset(reason)
        logger.info(
            "Reset a stream: %s.", reason, extra=fields(event="reset", reason=reason, channels=[*self.channels])
        )
        hub = self._hub
        if self.snapshot is not None:
            self.cursor = hub.position
        elif pruned is None:
            self.cursor = 0  # not a cursor of this log: replay all retained messages
        # The reset reports these, so that they are no gap any more.
        self._known_pruned |= await self._ask(log.pruned, self.channels, self.cursor) if pruned is None else pruned
        data = {
            "reason": reason,
            "requested": requested[:MAX_REQUESTED_CHARACTERS],
            "earliest": await self._ask(log.earliest, self.channels),
            "head": hub.position,
        }
        self._sent_id = self.start = self.cursor
        await self._find_end()
        block = sse.encode(json.dumps(data), event="stream-reset", id=self.cursor)
        return block + await self._take_snapshot()

    async def _find_end(self) -> None:
        """Look for a final event behind the cursor, if the cursor is not the client's own and has skipped messages."""
        if self._final:
            newest = await self._ask(log.newest_of, self.channels)
            if newest is not None and newest.position <= self.cursor and newest.encode().startswith(self._final):
                self._ends_at = newest.position

    async def _take_snapshot(self) -> bytes:
        if self.snapshot is None:
            return b""
        # The cursor was taken before: messages that are published meanwhile follow the snapshot. Their effect can be in
        # it already, but they are never missing.
        state = await self.snapshot()
        return sse.encode(encode_data(state, max_bytes=None), event="stream-snapshot", id=self.cursor)

    async def _ask(self, question: Callable[..., T], *args: Any) -> T:
        """Read the log when it is this caller's turn."""
        return await self._hub.reads.ask(self.caller, question, *args)

    def _checkpoint(self, position: int) -> bytes:
        self.cursor = self._sent_id = position
        return sse.checkpoint(position)
