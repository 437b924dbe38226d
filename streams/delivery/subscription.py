"""streams.subscribe(): the messages of channels for the site's own code, on an event loop, without HTTP."""

from __future__ import annotations

import asyncio
import itertools
import random
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import ClassVar, Self

from streams.delivery.cohorts import Batch
from streams.delivery.replay import Replay
from streams.delivery.subscriber import Subscriber
from streams.delivery.window import Frame
from streams.exceptions import EventsMissed, InvalidChannel, LogUnavailable
from streams.http.closing import close_later
from streams.protocol.events import validate_channels
from streams.protocol.sse import EventStreamDecoder, StoredEvent, is_position

# How long a subscription waits, with jitter, after the log could not be read.
RETRY_SECONDS = 1.0

_numbers = itertools.count(1)


def subscribe(
    *channels: str,
    after: int | str | None = None,
    replay: int = 0,
    on_reset: Callable[[EventsMissed], object] | None = None,
) -> Subscription:
    """Return an async iterator of the messages of one or several channels, in the order of the log.

        async for event in streams.subscribe("news", after=41):
            print(event.position, event.channel, event.event, event.json())

    Each message comes exactly once and in order, as in a stream over HTTP. It is for the site's own code, so that no
    policy is asked: check the permission yourself before you pass messages on to a user.

    Args:
        channels: the names.
        after: a cursor: start with the first message after this position (or event id). By default, only new messages
            come: those that are published after the first iteration has begun, or `async with` was entered.
        replay: how many of the newest messages come first, if there is no cursor.
        on_reset: called with an EventsMissed if messages can have been missed, for example because they were pruned.
            It can be async. The iteration then goes on with the messages that are left. Without it, the exception is
            raised, and you can iterate again to go on.

    The iterator returns objects with `position`, `id`, `channel`, `event`, `data` and `json()`. It ends after
    `aclose()`, or with its event loop. It is closed as well when it is no longer referenced, as after a `break` out of
    the loop above; use `async with` to have this at a certain moment. Cancelling the wait for a message loses nothing.

    While it waits, it holds no thread and no database connection. If your code is slow, the next messages are read from
    the log later, and do not fill the memory. If the database cannot be reached, it waits and goes on. It counts
    neither as a connection of the channel nor for the limits on streams, and sends no signals.

    Iterate it in one task at a time.

    Raises:
        InvalidChannel: a name is not valid, or no channel is named.
        ValueError: `after` or `replay` is not valid.
        EventsMissed: see `on_reset`. Raised by the iteration, as the next one.
        NotMigrated: the database lacks the tables.
    """
    return Subscription(channels, after=after, replay=replay, on_reset=on_reset)


class Subscription:
    """The iterator that subscribe() returns."""

    def __init__(
        self,
        channels: tuple[str, ...],
        *,
        after: int | str | None,
        replay: int,
        on_reset: Callable[[EventsMissed], object] | None,
    ) -> None:
        if not channels:
            raise InvalidChannel("Name the channels to read, as in subscribe('news', 'weather').")
        if after is not None and (isinstance(after, bool) or not is_position(str(after))):
            raise ValueError(f"after is the position of a message, a whole number from 0; got {after!r}.")
        if isinstance(replay, bool) or not isinstance(replay, int) or replay < 0:
            raise ValueError(f"replay is a number of messages, 0 or more; got {replay!r}.")
        self._channels = validate_channels(channels)
        self._cursor = None if after is None else int(after)  # of the source
        self._position = self._cursor
        self._replay = replay
        self._on_reset = on_reset
        self._caller = f"subscription {next(_numbers)}"
        self._source: _Source | None = None
        self._abandoned: weakref.finalize[..., Subscription] | None = None
        self._is_iterating = False
        self._is_closed = False

    @property
    def position(self) -> int | None:
        """The cursor: no message up to here will come any more. Pass it as `after` to go on later.

        It is the position of the last message that was returned, or a later one if no other messages of these channels
        have followed; None before the start.
        """
        return self._position

    async def __aenter__(self) -> Self:
        try:
            while not self._is_closed and not (self._source is not None and self._source.has_begun()):
                await self._read_on()
        except BaseException:
            await self.aclose()  # because __aexit__ is not called
            raise
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoredEvent:
        if self._is_iterating:
            raise RuntimeError("A subscription is iterated in one task at a time; make one for each task.")
        self._is_iterating = True
        try:
            while not self._is_closed:
                source = self._source
                if source is not None and source.gap is not None:
                    gap, source.gap = source.gap, None
                    self._position = self._cursor
                    await self._report(gap)
                elif source is not None and source.frames:
                    message = source.frames.popleft().message()
                    self._position = message.position
                    return message
                else:
                    await self._read_on()
            raise StopAsyncIteration
        finally:
            self._is_iterating = False

    async def aclose(self) -> None:
        """End the iteration, also one that waits in another task of the event loop. It can be called twice."""
        self._is_closed = True
        await self._leave()

    async def _report(self, gap: EventsMissed) -> None:
        if self._on_reset is None:
            raise gap
        if isawaitable(result := self._on_reset(gap)):
            await result

    async def _read_on(self) -> None:
        """Wait for the next messages, a gap or a heartbeat."""
        if (source := self._source) is None:
            source = self._source = _Source(
                self._channels,
                last_event_id=None if self._cursor is None else str(self._cursor),
                replay=self._replay,
                caller=self._caller,
            )
            self._abandoned = weakref.finalize(self, close_later, source, asyncio.get_running_loop())
            self._abandoned.atexit = False
        try:
            await anext(source)
        except StopAsyncIteration:
            await self.aclose()  # the event loop is ending, unless this was closed already
        except LogUnavailable:  # it is logged already
            if source.has_begun():
                await self._leave()  # a failed read can leave it in between: begin again from the cursor
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1))  # noqa: S311
        else:
            if source.has_begun():
                self._cursor = source.cursor
                if source.gap is None and not source.frames:
                    self._position = self._cursor

    async def _leave(self) -> None:
        source, self._source = self._source, None
        if self._abandoned is not None:
            self._abandoned.detach()
        if source is not None:
            await source.aclose()


@dataclass(slots=True, weakref_slot=True, eq=False, repr=False, kw_only=True)
class _Source(Subscriber):
    """A subscriber whose messages and gaps are taken from its attributes. The bytes that it returns are of no use."""

    is_counted: ClassVar[bool] = False

    frames: deque[Frame] = field(default_factory=deque)  # handed out, in order
    gap: EventsMissed | None = None  # before these frames

    def has_begun(self) -> bool:
        return self._begun

    def deliver(self, batch: Batch, now: float) -> bool:
        waiter = self._idle()  # it gets no frame: all frames go through the queue
        is_accepted = Subscriber.deliver(self, batch, now)
        if waiter is not None:
            self._hand(waiter, b"")
        return is_accepted

    def _take(self) -> bytes:
        self.frames.extend(self._take_frames())
        return b""

    async def _reset(self, reason: str, requested: str, *, pruned: dict[str, int] | None = None) -> bytes:
        block = await Replay._reset(self, reason, requested, pruned=pruned)
        self.gap = EventsMissed(**EventStreamDecoder().feed(block)[0].json())
        return block

    def _may_join_messages(self) -> bool:
        return False

    def _is_overdue(self) -> bool:
        return False  # there is no client that could return
