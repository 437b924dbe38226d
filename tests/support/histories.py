"""A log whose head goes back from 150 to 100: its messages, its publishers, and the events that clients receive."""

from __future__ import annotations

import asyncio
import json

from streams import NewMessage, publish, publish_many
from tests.support.clients import StreamClient
from tests.support.sites import Site, finish

OLD = [f"old {n}" for n in range(1, 101)]
LOST = [f"lost {n}" for n in range(101, 151)]
NEW = [f"new {n}" for n in range(1, 61)]


def publish_each(*texts: str) -> None:
    """Publish one message at a time, like separate callers."""
    for text in texts:
        publish("news", text)


def publish_together(*texts: str) -> None:
    publish_many([NewMessage("news", text) for text in texts])


async def grow(site: Site, texts: list[str]) -> None:
    await asyncio.to_thread(finish, site.call(publish_together, *texts))


async def comes_back(port: int, cursor: int, count: int) -> StreamClient:
    """Connect with a cursor, and reconnect as an EventSource does, until `count` messages have arrived."""
    client = StreamClient(port, "/events/news/", last_event_id=str(cursor))
    async with asyncio.timeout(30):
        while len(client.events) < count:
            await client.connect()
            await client.read_until(count)
    return client


def texts(client: StreamClient) -> list[str]:
    return [event.data for event in client.events]


def resets(client: StreamClient) -> list[tuple[str, str]]:
    found = [json.loads(event.data) for event in client.control if event.event == "stream-reset"]
    return [(reset["reason"], reset["requested"]) for reset in found]


async def assert_returning_clients(port: int, before: list[str] = OLD, after: list[str] = NEW) -> None:
    for cursor in (80, 100):
        client = await comes_back(port, cursor, 100 - cursor + len(after))
        assert (texts(client), resets(client)) == (before[cursor:] + after, []), cursor
    for cursor in (120, 150):
        client = await comes_back(port, cursor, 100 + len(after))
        assert client.control[0].event == "stream-reset"
        assert (texts(client), resets(client)) == (before + after, [("unknown-id", str(cursor))])
