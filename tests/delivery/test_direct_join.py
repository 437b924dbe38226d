"""The property test of test_join.py with streams that call the server's `send`, which now and then has to wait."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings

from streams.delivery.subscriber import Subscriber
from tests.delivery.test_join import Client, World, play, stories, tiny_buffers

# How long each `send` waits, in seconds; None: it takes the bytes at once.
PAUSES = (None, None, 0.0, None, 0.003, None, None, 0.02)


@dataclass
class DirectClient(Client):
    """As the Client of test_join.py. Live messages reach it through `send`, the others by the iteration."""

    pauses: Iterator[float | None] = field(default_factory=lambda: itertools.cycle(PAUSES))
    sending: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def subscribe(self) -> Subscriber:
        subscriber = super().subscribe()
        subscriber.send_directly(self.send)
        return subscriber

    async def send(self, event: Any) -> None:
        assert self.reading is not None
        assert not self.reading.done(), "it sends beside the task"
        assert not self.sending, "it sends two chunks at once"
        self.sending += 1
        try:
            if (pause := next(self.pauses)) is not None:
                await asyncio.sleep(pause)
            assert event["more_body"]
            self.take(event["body"])
            self.arrived.set()
        finally:
            self.sending -= 1

    async def read(self, pruned: set[int], wait: float = 0.0) -> None:
        self.arrived.clear()
        if self.reading is None:
            await super().read(pruned)
        if self.reading is not None:
            arrived = asyncio.create_task(self.arrived.wait())
            await asyncio.wait([self.reading, arrived], timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            arrived.cancel()
            if self.reading.done():
                await super().read(pruned)


@settings(
    max_examples=int(os.environ.get("JOIN_EXAMPLES", "150")), deadline=None, suppress_health_check=list(HealthCheck)
)
@stories
def test_every_direct_client_has_seen_what_the_model_says(
    transactional_db: None, story: list[tuple[object, ...]], notices: list[str]
) -> None:
    with tiny_buffers(notices):
        asyncio.run(play(story, World(DirectClient)))
