"""The cursor of a stream: the Last-Event-ID header, the query parameter, and the replay that follows."""

from __future__ import annotations

import pytest

from streams import apublish
from tests.views.support import Opening, checkpoint, fill, message

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.views.urls"),
    pytest.mark.usefixtures("public_channels"),
]


async def test_replay_ends_with_a_checkpoint(opening: Opening) -> None:
    await fill("news", "news", "other", "news", "other")
    async with opening("/events/news/", headers={"Last-Event-ID": "1"}) as stream:
        replayed = [checkpoint(1), message(2, "news 2"), message(4, "news 4"), checkpoint(5)]
        assert await stream.take(4) == replayed
        await apublish("news", "live")
        assert await stream.take(1) == [message(6, "live")]


async def test_cursor_in_query_is_used(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/events/news/?last_event_id=1") as stream:
        assert await stream.take(3) == [checkpoint(1), message(2, "news 2"), checkpoint(2)]


async def test_header_wins_over_query(opening: Opening) -> None:
    """A browser that reconnects repeats the URL of its first request."""
    await fill("news", "news", "news")
    async with opening("/events/news/?last_event_id=0", headers={"Last-Event-ID": "2"}) as stream:
        assert await stream.take(3) == [checkpoint(2), message(3, "news 3"), checkpoint(3)]


async def test_empty_header_leaves_cursor_to_query(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/events/news/?last_event_id=1", headers={"Last-Event-ID": ""}) as stream:
        assert await stream.take(2) == [checkpoint(1), message(2, "news 2")]


async def test_blank_header_leaves_cursor_to_query(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/events/news/?last_event_id=1", headers={"Last-Event-ID": "  "}) as stream:
        assert await stream.take(3) == [checkpoint(1), message(2, "news 2"), checkpoint(2)]


async def test_empty_query_cursor_is_ignored(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/events/news/?last_event_id=") as stream:
        assert await stream.take(1) == [checkpoint(2)]


async def test_cursor_at_head_replays_nothing(opening: Opening) -> None:
    """The second checkpoint shows the client that the replay is over."""
    await fill("news", "news")
    async with opening("/events/news/", headers={"Last-Event-ID": "2"}) as stream:
        assert await stream.take(2) == [checkpoint(2), checkpoint(2)]


async def test_cursor_zero_replays_whole_log(opening: Opening) -> None:
    await fill("news", "other")
    async with opening("/events/news/?last_event_id=0") as stream:
        assert await stream.take(3) == [checkpoint(0), message(1, "news 1"), checkpoint(2)]


async def test_leading_zeros_are_ignored(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/events/news/?last_event_id=001") as stream:
        assert await stream.take(2) == [checkpoint(1), message(2, "news 2")]


@pytest.mark.parametrize("padded", ["1  ", " 1", "\t1 \t"], ids=ascii)
async def test_whitespace_around_id_is_ignored(opening: Opening, padded: str) -> None:
    """It is not part of a header's value (RFC 9110, section 5.5), but not every server removes it."""
    await fill("news", "news")
    quoted = padded.replace(" ", "%20").replace("\t", "%09")
    for url, headers in (("/events/news/", {"Last-Event-ID": padded}), (f"/events/news/?last_event_id={quoted}", {})):
        async with opening(url, headers=headers) as stream:
            assert await stream.take(3) == [checkpoint(1), message(2, "news 2"), checkpoint(2)]


async def test_subclass_chooses_its_cursor(opening: Opening) -> None:
    await fill("news", "news")
    async with opening("/own-cursor/news/?since=1&last_event_id=0", headers={"Last-Event-ID": "0"}) as stream:
        assert await stream.take(2) == [checkpoint(1), message(2, "news 2")]
