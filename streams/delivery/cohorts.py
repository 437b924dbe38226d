"""Deliver live messages to cohorts: the live streams of an event loop that follow the same channels.

A cohort collects new messages, and one task hands them to its members. A lone message is handed over in the next turn
of the event loop. Messages that arrive together reach each member as one chunk of bytes, which all members share.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from streams.delivery.window import Frame
from streams.telemetry import recorder, tracing

logger = logging.getLogger("streams.hub")

# The size of one write, unless a single message is larger. It is large enough to be efficient, and small enough that a
# client that stops reading does not leave megabytes in the server's own buffers.
CHUNK_BYTES = 65_536

# How long messages are taken or handed over before the event loop can do other work: there can be tens of thousands of
# messages or members.
SLICE_SECONDS = 0.005

# The clock is read once for so many members.
GROUP = 16

# Messages that wait to be handed over. If there are more, the hub takes no further ones until they are.
MAX_WAITING_BYTES = 4 * CHUNK_BYTES


@dataclass(slots=True, eq=False)
class Batch:
    """Messages of one cohort, and their bytes.

    frames: one or more, in order.
    data: their bytes, in one piece.
    event: the ASGI event that sends these bytes. All members share it.
    """

    frames: Sequence[Frame]
    data: bytes
    event: dict[str, Any]
    first: int
    last: int

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Batch:
        data = frames[0].data if len(frames) == 1 else b"".join([frame.data for frame in frames])
        event = {"type": "http.response.body", "body": data, "more_body": True}
        return cls(frames, data, event, frames[0].position, frames[-1].position)


class Member(Protocol):
    """A live stream. See Subscriber."""

    channels: tuple[str, ...]

    def deliver(self, batch: Batch, now: float) -> bool: ...

    def fall_behind(self) -> None: ...


@dataclass(slots=True, eq=False)
class Cohort:
    """The live streams of the same channels. `waiting`: the messages that they have not been handed yet."""

    # In the order of joining, which is roughly their order in memory. With a set, each delivery has cache misses.
    members: dict[Member, None] = field(default_factory=dict)
    waiting: list[Frame] = field(default_factory=list)
    is_served: bool = False  # some members have been handed the newest messages, and others not yet


@dataclass(slots=True)
class _Sums:
    """What was handed over since the last report. Only sums, because anything else would cost more than a delivery."""

    deliveries: int = 0
    size: int = 0
    overflows: int = 0


class Cohorts:
    """The live streams of one event loop. All methods are called on that loop."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, ...], Cohort] = {}
        self._of: dict[str, dict[Cohort, None]] = {}  # by channel
        self._due: list[Cohort] = []  # those with waiting messages
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._sums = _Sums()
        self._committed_at: list[float] = []
        self._traced: list[tuple[str, Frame, int, int]] = []

    def attach(self, subscriber: Member) -> None:
        """Hand `subscriber` every later message of its channels. It skips those that wait, by its cursor."""
        channels = subscriber.channels
        if (cohort := self._all.get(channels)) is None:
            cohort = self._all[channels] = Cohort()
            for channel in channels:
                self._of.setdefault(channel, {})[cohort] = None
        cohort.members[subscriber] = None

    def detach(self, subscriber: Member) -> None:
        """Hand `subscriber` no more messages, not even those that wait: it reads them from the log."""
        channels = subscriber.channels
        if (cohort := self._all.get(channels)) is None:
            return
        cohort.members.pop(subscriber, None)
        if not cohort.members:
            del self._all[channels]
            for channel in channels:
                del self._of[channel][cohort]
                if not self._of[channel]:
                    del self._of[channel]

    def have_all(self, channels: tuple[str, ...]) -> bool:
        """Return True if nothing waits to be handed to the streams of these channels."""
        cohort = self._all.get(channels)
        return cohort is None or not (cohort.waiting or cohort.is_served)

    def take(self, frame: Frame, trace: str | None) -> bool:
        """Take the next message for the members of its channel. Return False if there are none."""
        if (cohorts := self._of.get(frame.channel)) is None:
            return False
        for cohort in cohorts:
            if not cohort.waiting:
                self._due.append(cohort)
            cohort.waiting.append(frame)
        self._waiting_bytes += len(frame.data)
        if trace is not None:
            self._traced.append((trace, frame, sum(len(cohort.members) for cohort in cohorts), time.time_ns()))
        if not self._arrived.is_set():
            self._arrived.set()
            self._settled.clear()
        return True

    def note_commit(self, committed_at: float) -> None:
        """Report the delay since this time, by the publisher's clock, when the messages that wait are handed over."""
        self._committed_at.append(committed_at)

    def is_full(self) -> bool:
        """Return True if so much waits that no more should be taken before `settle()`."""
        return self._waiting_bytes > MAX_WAITING_BYTES

    async def settle(self) -> None:
        """Wait until all messages have been handed over."""
        await self._settled.wait()

    async def run(self) -> None:
        """Hand messages over as they arrive, until it is cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._due:
                due, self._due = self._due, []
                self._waiting_bytes = 0
                await self._serve(due)
            self._settled.set()
            self._report()

    async def _serve(self, due: list[Cohort]) -> None:
        until = time.monotonic() + SLICE_SECONDS
        batches: list[Batch] = []
        shared: list[Frame] | None = None
        for cohort in due:
            frames, cohort.waiting = cohort.waiting, []
            cohort.is_served = True
            if frames != shared:  # usually all cohorts of a channel have the same
                shared, batches = frames, _batches(frames)
            try:
                for batch in batches:
                    members = list(cohort.members)
                    self._sums.deliveries += len(members) * len(batch.frames)
                    self._sums.size += len(members) * len(batch.data)
                    for start in range(0, len(members), GROUP):
                        if (now := time.monotonic()) > until:
                            await asyncio.sleep(0)
                            now = time.monotonic()
                            until = now + SLICE_SECONDS
                        self._hand(batch, cohort, members[start : start + GROUP], now)
            finally:
                cohort.is_served = False

    def _hand(self, batch: Batch, cohort: Cohort, group: list[Member], now: float) -> None:
        for subscriber in group:
            if subscriber not in cohort.members:
                continue  # it has left in the meantime
            try:
                has_room = subscriber.deliver(batch, now)
            except Exception:
                # The other members must get their messages. This one reads them from the log.
                logger.exception("A live message could not be handed to a stream.")
                subscriber.fall_behind()
                has_room = False
            if not has_room:
                self._sums.overflows += 1
                self.detach(subscriber)

    def _report(self) -> None:
        sums, self._sums = self._sums, _Sums()
        if sums.deliveries:
            recorder.current.delivered(sums.deliveries, sums.size, sums.overflows)
        if self._committed_at:
            now = time.time()
            for committed_at in self._committed_at:
                recorder.current.found(now - committed_at, "notice")
            self._committed_at.clear()
        for trace, frame, count, began_ns in self._traced:
            tracing.delivered(trace, frame.channel, frame.position, count, began_ns)
        self._traced.clear()


def _batches(frames: list[Frame]) -> list[Batch]:
    """Divide frames into batches of at most CHUNK_BYTES. A batch has at least one frame."""
    batches = []
    start = size = 0
    for end, frame in enumerate(frames):
        if end > start and size + len(frame.data) > CHUNK_BYTES:
            batches.append(Batch.of(frames[start:end]))
            start, size = end, 0
        size += len(frame.data)
    batches.append(Batch.of(frames[start:]))
    return batches
