"""Streams of one channel and of several: the first bytes, the headers and the live messages."""

from __future__ import annotations

import pytest
from django.test import override_settings

from streams import apublish
from tests.views.support import PUBLIC, Opening, by_client, checkpoint, fill, message

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.views.urls"),
    pytest.mark.usefixtures("public_channels"),
]


async def test_stream_begins_with_retry_and_checkpoint(opening: Opening) -> None:
    """Both are in one block, which is sent at once."""
    await fill("news", "other")
    async with opening("/events/news/") as stream:
        assert await stream.chunk() == b"retry: 3000\nevent: stream-checkpoint\nid: 2\ndata: {}\n\n"


@override_settings(STREAMS={**PUBLIC, "RETRY_MILLISECONDS": 250})
async def test_retry_comes_from_the_settings(opening: Opening) -> None:
    async with opening("/events/news/") as stream:
        await stream.take(1)
        assert stream.retry == 250


async def test_response_has_event_stream_headers(opening: Opening) -> None:
    async with opening("/events/news/") as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-cache, no-transform"
        assert stream.headers["x-accel-buffering"] == "no"
        assert not {"connection", "content-length", "content-encoding", "set-cookie"} & stream.headers.keys()


async def test_live_messages_come_in_order(opening: Opening) -> None:
    async with opening("/events/news/") as stream:
        assert await stream.take(1) == [checkpoint(0)]
        await apublish("news", "one\ntwo")
        await apublish("other", "not this")
        await apublish("news", {"title": "Grüße"}, event="add")
        assert await stream.take(2) == [message(1, "one\ntwo"), ("add", "3", '{"title":"Grüße"}')]


async def test_message_before_first_byte_is_sent() -> None:
    """A message that is published between the response and its first byte is in the stream."""
    async with by_client("/events/news/") as stream:
        await apublish("news", "just after")
        assert await stream.take(2) == [checkpoint(0), message(1, "just after")]


async def test_fresh_client_gets_no_old_messages(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/events/news/") as stream:
        await apublish("news", "new")
        assert await stream.take(2) == [checkpoint(2), message(3, "new")]


async def test_several_channels_share_one_cursor(opening: Opening) -> None:
    await fill("b", "a", "c", "b", "a")
    async with opening("/events/?channel=a&channel=b", headers={"Last-Event-ID": "1"}) as stream:
        replayed = [checkpoint(1), message(2, "a 2"), message(4, "b 4"), message(5, "a 5"), checkpoint(5)]
        assert await stream.take(5) == replayed
        await fill("c", "b", "a", "b")
        assert await stream.take(3) == [message(7, "b 2"), message(8, "a 3"), message(9, "b 4")]


async def test_repeated_channel_is_streamed_once(opening: Opening) -> None:
    async with opening("/events/?channel=a&channel=b&channel=a") as stream:
        await fill("a", "b")
        assert await stream.take(3) == [checkpoint(0), message(1, "a 1"), message(2, "b 2")]


async def test_path_channel_wins_over_query(opening: Opening) -> None:
    async with opening("/events/a/?channel=b") as stream:
        await fill("b", "a")
        assert await stream.take(2) == [checkpoint(0), message(2, "a 2")]


async def test_subclass_chooses_its_channels(opening: Opening) -> None:
    async with opening("/scores/7/?last_event_id=0") as stream:
        await stream.take(2)
        await fill("score.8", "score.all", "score.7")
        assert await stream.take(2) == [message(2, "score.all 2"), message(3, "score.7 3")]
