"""A property test of the join: each client receives exactly the messages that a simple model expects.

The test mixes these steps in random order: publishing with and without a notice, connecting with any cursor, slow
reads, disconnecting, reconnecting, and pruning. Notices can be lost, repeated or reordered. Queues, pages and windows
are tiny, so that they overflow all the time.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams import NewMessage, apublish_many, log
from streams.delivery.subscriber import Subscriber
from streams.log import reading
from streams.models import Channel, LogHead, Message
from streams.notifiers import Notice
from streams.notifiers.local import LocalNotifier
from streams.protocol.events import check
from streams.protocol.sse import DecodedEvent, EventStreamDecoder
from streams.runtime import executor

CHANNELS = ("a", "b", "c")

TINY = {
    "POLL_SECONDS": 0.05,
    "WINDOW_MESSAGES": 6,
    "QUEUE_MESSAGES": 4,
    "HEARTBEAT_SECONDS": 0.1,
    "NOTIFIER": {"BACKEND": "tests.delivery.test_join.FaultyNotifier"},
}


class FaultyNotifier(LocalNotifier):
    """Lose, repeat or delay each notice. `choices` holds the next actions, which Hypothesis has generated."""

    choices: Iterator[str] = iter(())

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Notice] = []

    def notify(self, notice: Notice) -> None:
        match next(self.choices, "send"):
            case "lose":
                return
            case "repeat":
                super().notify(notice)
            case "hold":
                self._held.append(notice)
                return
        super().notify(notice)
        while self._held:
            super().notify(self._held.pop())


@dataclass
class Client:
    """A client that works like an EventSource: it reconnects with its last id. It keeps all events."""

    channels: tuple[str, ...]
    cursor: str | None
    seen: list[DecodedEvent] = field(default_factory=list)
    start: int | None = None
    # index of a reset in `seen`: the positions that were pruned when the reset was sent
    pruned_at_reset: dict[int, frozenset[int]] = field(default_factory=dict)
    subscriber: Subscriber | None = None
    reading: asyncio.Task[tuple[bytes, frozenset[int]]] | None = None

    def subscribe(self) -> Subscriber:
        return Subscriber(self.channels, last_event_id=self.cursor)

    async def connect(self, pruned: set[int]) -> None:
        self.subscriber = self.subscribe()
        self.decoder = EventStreamDecoder()
        self.decoder.last_event_id = self.cursor or ""
        seen = len(self.seen)
        while self.reading is None and len(self.seen) == seen:  # a heartbeat can come first
            await self.read(pruned, wait=10.0)

    async def read(self, pruned: set[int], wait: float = 0.0) -> None:
        """Wait for one chunk. If it does not arrive in time, the next call continues to wait for it."""
        assert self.subscriber is not None
        if self.reading is None:
            self.reading = asyncio.create_task(self._next_chunk(self.subscriber, pruned))
        await asyncio.wait([self.reading], timeout=wait)
        if self.reading.done():
            (chunk, pruned_then), self.reading = self.reading.result(), None
            self.take(chunk, pruned_then)

    def take(self, chunk: bytes, pruned_then: frozenset[int] = frozenset()) -> None:
        for event in self.decoder.feed(chunk):
            if event.event == "stream-reset":
                self.pruned_at_reset[len(self.seen)] = pruned_then
            self.seen.append(event)
        self.cursor = self.decoder.last_event_id or None

    @staticmethod
    async def _next_chunk(subscriber: Subscriber, pruned: set[int]) -> tuple[bytes, frozenset[int]]:
        """Return the next chunk, and what was pruned at that moment: more can be pruned before the client takes it."""
        return await anext(subscriber), frozenset(pruned)

    async def leave(self) -> None:
        assert self.subscriber is not None
        if self.reading is not None:
            self.reading.cancel()
            with suppress(asyncio.CancelledError):
                await self.reading
        await self.subscriber.aclose()
        self.subscriber = self.reading = None


class World:
    """The log, its clients, and the model: all messages ever published, and the positions that were pruned."""

    def __init__(self, new_client: Callable[[tuple[str, ...], str | None], Any] = Client) -> None:
        self.new_client = new_client
        self.published: dict[int, tuple[str, str]] = {}  # position: (channel, data)
        self.pruned: set[int] = set()
        self.clients: list[Any] = []

    @property
    def head(self) -> int:
        return max(self.published, default=0)

    async def publish(self, channels: list[str], *, silently: bool) -> None:
        new = [NewMessage(channel, f"{channel} {len(self.published) + i}") for i, channel in enumerate(channels)]
        rows = await (executor.run(_append_silently, new) if silently else apublish_many(new))
        for row in rows:
            assert row.position is not None
            self.published[row.position] = (row.channel, row.data)

    async def connect(self, channels: tuple[str, ...], cursor: str | None) -> None:
        """Connect a new client. Its cursor determines its first event, and the first message that it must get."""
        client = self.new_client(channels, cursor)
        self.clients.append(client)
        await client.connect(self.pruned)
        first = client.seen[0]
        if cursor is None:
            assert first.event == "stream-checkpoint"
            client.start = int(first.id)  # the hub chooses the start, and the client misses nothing after it
            assert client.start <= self.head
        elif not (cursor.isascii() and cursor.isdigit()) or int(cursor) > self.head:
            reason = "unknown-id" if cursor.isascii() and cursor.isdigit() else "malformed-id"
            assert (first.event, json.loads(first.data)["reason"]) == ("stream-reset", reason)
            client.start = 0
        else:
            assert first.event == "stream-checkpoint" or json.loads(first.data)["reason"] == "pruned"
            assert first.id == cursor
            client.start = int(cursor)

    async def prune(self, through: int, channel: str | None) -> None:
        # The model is updated first, because a reset can be sent during the pruning.
        self.pruned |= {at for at, (name, _) in self.published.items() if at <= through and channel in (None, name)}
        await executor.run(_prune, through, channel)

    def verify(self, client: Any) -> None:
        """Compare the events that the client has received with the model."""
        expected = {position for position, (name, _) in self.published.items() if name in client.channels}
        story = [(event.event, int(event.id), event.data) for event in client.seen]
        messages = [(index, position) for index, (kind, position, _) in enumerate(story) if kind == "message"]
        positions = [position for _, position in messages]
        assert positions == sorted(set(positions)), f"out of order or repeated: {positions}"
        assert set(positions) <= expected
        for index, position in messages:
            assert story[index][2] == self.published[position][1]
        resets = [(index, json.loads(data)) for index, (kind, _, data) in enumerate(story) if kind == "stream-reset"]
        start = client.start
        assert start is not None
        for missing in {position for position in expected if position > start} - set(positions):
            assert missing in self.pruned, f"{missing} is lost: {story}"
            was_reset = any(
                missing in client.pruned_at_reset[index]
                and all(place < missing for at, place in messages if at < index)
                for index, _ in resets
            )
            assert was_reset, f"a silent gap at {missing}: {story}"
        for _, reset in resets:
            if reset["reason"] == "pruned":
                cursor = int(reset["requested"])
                assert any(place > cursor for place in expected & self.pruned), f"a false reset: {reset}"


def _append_silently(messages: list[NewMessage]) -> list[Message]:
    """Publish like another process whose notice is lost."""
    with log.own_transaction():
        rows = log.append([check(message) for message in messages])
        positions = log.sequence()
    for row in rows:
        row.position = positions[row.pk]
    return rows


def _prune(through: int, channel: str | None) -> None:
    while log.delete_through(through, channel=channel, limit=2):
        pass


def _empty_the_log() -> None:
    for model in (Message, LogHead, Channel):
        model.objects.all().delete()


some_channels = st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=3, unique=True).map(tuple)
cursors = st.one_of(
    st.none(),
    st.integers(0, 40).map(str),
    st.sampled_from(["x", "-1", "1.5", "９", "99999999999999999999", "4 "]),
)
steps = st.one_of(
    st.tuples(st.just("publish"), st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=7), st.booleans()),
    st.tuples(st.just("connect"), some_channels, cursors),
    st.tuples(st.just("read"), st.integers(0, 5), st.integers(1, 3)),
    st.tuples(st.just("leave"), st.integers(0, 5)),
    st.tuples(st.just("return"), st.integers(0, 5)),
    st.tuples(st.just("prune"), st.integers(0, 40), st.one_of(st.none(), st.sampled_from(CHANNELS))),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.001, 0.06])),
)


async def play(story: list[tuple[object, ...]], world: World) -> None:
    await executor.run(_empty_the_log)
    for step in story:
        match step:
            case ("publish", list() as channels, bool() as silently):
                await world.publish(channels, silently=silently)
            case ("connect", tuple() as channels, cursor):
                await world.connect(channels, cursor)
            case ("read", int() as number, int() as chunks) if number < len(world.clients):
                for _ in range(chunks if world.clients[number].subscriber else 0):
                    await world.clients[number].read(world.pruned, 0.001)
            case ("leave", int() as number) if number < len(world.clients) and world.clients[number].subscriber:
                await world.clients[number].leave()
            case ("return", int() as number) if number < len(world.clients):
                if not world.clients[number].subscriber:
                    await world.clients[number].connect(world.pruned)
            case ("prune", int() as through, channel):
                await world.prune(min(through, world.head), channel)
            case ("wait", float() as seconds):
                await asyncio.sleep(seconds)
    for client in world.clients:
        if client.subscriber is None:
            await client.connect(world.pruned)
    async with asyncio.timeout(20):
        for client in world.clients:
            while int(client.cursor or 0) < world.head:  # heartbeats bring the cursor of a quiet channel to the head
                await client.read(world.pruned, 1.0)
    for client in world.clients:
        await client.leave()
        world.verify(client)


@contextmanager
def tiny_buffers(notices: list[str]) -> Iterator[None]:
    FaultyNotifier.choices = iter(notices)
    with pytest.MonkeyPatch.context() as patch, override_settings(STREAMS=TINY):
        patch.setattr(reading, "PAGE_MESSAGES", 3)
        patch.setattr(reading, "LONG_PAGE_MESSAGES", 5)
        # Other tasks run after each message that the hub applies.
        patch.setattr("streams.delivery.follower.SLICE_SECONDS", 0.0)
        yield


stories = given(
    story=st.lists(steps, min_size=3, max_size=40),
    notices=st.lists(st.sampled_from(["send", "send", "lose", "repeat", "hold"]), max_size=40),
)


@settings(
    max_examples=int(os.environ.get("JOIN_EXAMPLES", "150")), deadline=None, suppress_health_check=list(HealthCheck)
)
@stories
def test_every_client_has_seen_what_the_model_says(
    transactional_db: None, story: list[tuple[object, ...]], notices: list[str]
) -> None:
    with tiny_buffers(notices):
        asyncio.run(play(story, World()))
