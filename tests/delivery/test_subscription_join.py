"""The property test of test_join.py with streams.subscribe(): each consumer gets exactly what the model expects."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings

from streams.delivery.subscription import Subscription, subscribe
from streams.exceptions import EventsMissed
from streams.protocol.sse import DecodedEvent, StoredEvent, is_position
from tests.delivery.test_join import World, play, stories, tiny_buffers


@dataclass
class Consumer:
    """As the Client of test_join.py. It comes back with its position, and notes what it gets as a client's events."""

    channels: tuple[str, ...]
    cursor: str | None
    seen: list[DecodedEvent] = field(default_factory=list)
    start: int | None = None
    pruned_at_reset: dict[int, frozenset[int]] = field(default_factory=dict)
    subscriber: Subscription | None = None
    reading: asyncio.Task[tuple[StoredEvent | EventsMissed, frozenset[int]]] | None = None

    async def connect(self, pruned: set[int]) -> None:
        self.subscriber = subscribe(*self.channels, after=self.cursor)
        await self.subscriber.__aenter__()
        source = self.subscriber._source
        assert source is not None
        if source.gap is not None:
            await self.read(pruned, wait=10.0)
        else:
            self.seen.append(DecodedEvent("{}", "stream-checkpoint", str(self.subscriber.position)))

    async def read(self, pruned: set[int], wait: float = 0.0) -> None:
        """Wait for one message. If it does not arrive in time, the next call continues to wait for it."""
        assert self.subscriber is not None
        if self.reading is None:
            self.reading = asyncio.create_task(self._next_event(self.subscriber, pruned))
        await asyncio.wait([self.reading], timeout=wait)
        if self.reading.done():
            self.note(*self.reading.result())
            self.reading = None
        position = self.subscriber.position
        self.cursor = None if position is None else str(position)

    @staticmethod
    async def _next_event(
        subscriber: Subscription, pruned: set[int]
    ) -> tuple[StoredEvent | EventsMissed, frozenset[int]]:
        """Return the next event or gap, and what was pruned at that moment: more can be pruned before it is noted."""
        try:
            event: StoredEvent | EventsMissed = await anext(subscriber)
        except EventsMissed as gap:
            event = gap
        return event, frozenset(pruned)

    def note(self, event: StoredEvent | EventsMissed, pruned: frozenset[int]) -> None:
        assert self.subscriber is not None
        if isinstance(event, EventsMissed):
            self.pruned_at_reset[len(self.seen)] = pruned
            self.seen.append(DecodedEvent(json.dumps(vars(event)), "stream-reset", str(self.subscriber.position)))
        else:
            self.seen.append(DecodedEvent(event.data, event.event, event.id))

    async def leave(self) -> None:
        assert self.subscriber is not None
        if self.reading is not None:
            self.reading.cancel()
            with suppress(asyncio.CancelledError):
                self.note(*await self.reading)
        position = self.subscriber.position
        self.cursor = None if position is None else str(position)
        await self.subscriber.aclose()
        self.subscriber = self.reading = None


def new_consumer(channels: tuple[str, ...], cursor: str | None) -> Consumer:
    return Consumer(channels, cursor)


class ConsumersWorld(World):
    async def connect(self, channels: tuple[str, ...], cursor: str | None) -> None:
        await super().connect(channels, cursor if cursor is None or is_position(cursor) else None)


@settings(
    max_examples=int(os.environ.get("JOIN_EXAMPLES", "150")) // 10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@stories
def test_every_consumer_has_seen_what_the_model_says(
    transactional_db: None, story: list[tuple[object, ...]], notices: list[str]
) -> None:
    with tiny_buffers(notices):
        asyncio.run(play(story, ConsumersWorld(new_consumer)))
