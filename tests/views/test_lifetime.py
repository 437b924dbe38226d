"""The lifetime of a stream, its heartbeats, and the cleanup after its client has left."""

from __future__ import annotations

import gc

import pytest
from django.db import connections
from django.test import AsyncClient, override_settings

from streams import apublish
from streams.delivery.hub import Hub
from streams.delivery.subscriber import open_streams
from streams.protocol.sse import HEARTBEAT
from streams.testing import read_events
from streams.views import _lifetime
from tests.views.support import PUBLIC, Opening, by_asgi, checkpoint, fill, message

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.views.urls"),
    pytest.mark.usefixtures("public_channels"),
]


async def test_timeout_ends_the_stream(opening: Opening) -> None:
    async with opening("/short/news/") as stream:
        assert await stream.take(1) == [checkpoint(0)]
        assert b"stream-error" not in await stream.rest()


@override_settings(STREAMS={**PUBLIC, "MAX_STREAM_SECONDS": 1.5})
async def test_setting_limits_lifetime_of_streams(opening: Opening) -> None:
    async with opening("/events/news/") as stream:
        assert await stream.take(1) == [checkpoint(0)]
        assert b"stream-error" not in await stream.rest()


@override_settings(STREAMS={"MAX_STREAM_SECONDS": 100})
def test_streams_end_at_different_times() -> None:
    ends = [_lifetime(None) for _ in range(1000)]
    assert all(80 <= end <= 100 for end in ends if end is not None)
    assert min(filter(None, ends)) < 82
    assert max(filter(None, ends)) > 98
    assert _lifetime(10) == 10


@override_settings(STREAMS={**PUBLIC, "HEARTBEAT_SECONDS": 0.1})
async def test_heartbeat_is_one_line(opening: Opening) -> None:
    async with opening("/events/news/") as stream:
        await stream.take(1)
        assert [await stream.chunk() for _ in range(3)] == [HEARTBEAT] * 3


@override_settings(STREAMS={**PUBLIC, "HEARTBEAT_SECONDS": 0.1})
async def test_heartbeat_moves_cursor_of_quiet_channel(opening: Opening) -> None:
    async with opening("/events/quiet/") as stream:
        assert await stream.take(1) == [checkpoint(0)]
        await fill("busy", "busy")
        assert await stream.take(1) == [checkpoint(2)]
        assert await stream.chunk() == HEARTBEAT, "the checkpoint is sent once"
        await fill("busy", "quiet", "busy")
        assert await stream.take(2) == [message(4, "quiet 2"), checkpoint(5)]


@pytest.mark.parametrize("url", ["/events/news/", "/events/?channel=news", "/own-cursor/news/"])
async def test_atomic_requests_do_not_affect_streams(
    opening: Opening, url: str, monkeypatch: pytest.MonkeyPatch, queries: list[str]
) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    async with opening(url) as stream:
        assert stream.status == 200
        await apublish("news", "hello")
        assert await stream.take(2) == [checkpoint(0), message(1, "hello")]


async def test_leaving_client_leaves_nothing_behind() -> None:
    gc.collect()  # remove the streams of other tests, whose event loops are closed
    before = open_streams()
    async with by_asgi("/events/news/") as stream:
        await stream.take(1)
        assert open_streams() == before + 1
        assert Hub.running() is not None
    assert open_streams() == before
    assert Hub.running() is None


async def test_failed_view_leaves_no_open_stream() -> None:
    async with by_asgi("/misconfigured/news/") as answer:
        assert answer.status == 500
    assert Hub.running() is None


async def test_read_events_closes_the_stream() -> None:
    """A hub that kept running would poll while other tests run."""
    response = await AsyncClient().get("/events/news/")
    await apublish("news", "hello")
    assert [event.data for event in await read_events(response, 1)] == ["hello"]
    assert Hub.running() is None
