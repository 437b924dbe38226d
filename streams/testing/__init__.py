"""Helpers for your own tests. They work in TestCase and TransactionTestCase, and with pytest-django.

with assert_published("orders", {"order": 17}):
    self.client.post("/pay/17/")

async with StreamClient(self.async_client, "/events/news/") as stream:
    await apublish("news", "hello")
    assert (await stream.next()).data == "hello"

with travel(hours=8):
    call_command("prune_messages")
"""

from __future__ import annotations

from streams.protocol.sse import DecodedEvent as DecodedEvent
from streams.testing.connections import StreamNotOpened as StreamNotOpened
from streams.testing.live_server import StreamsLiveServer as StreamsLiveServer
from streams.testing.live_server import StreamsLiveServerTestCase as StreamsLiveServerTestCase
from streams.testing.published import assert_not_published as assert_not_published
from streams.testing.published import assert_published as assert_published
from streams.testing.published import published as published
from streams.testing.reading import iterate_events as iterate_events
from streams.testing.reading import read_events as read_events
from streams.testing.stream_client import StreamClient as StreamClient
from streams.testing.sync_stream_client import SyncStreamClient as SyncStreamClient
from streams.testing.time_travel import travel as travel
from streams.testing.time_travel import travel_to as travel_to

__all__ = [
    "DecodedEvent",
    "StreamClient",
    "StreamNotOpened",
    "StreamsLiveServer",
    "StreamsLiveServerTestCase",
    "SyncStreamClient",
    "assert_not_published",
    "assert_published",
    "iterate_events",
    "published",
    "read_events",
    "travel",
    "travel_to",
]
