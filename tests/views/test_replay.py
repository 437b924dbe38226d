"""`?replay=N`: the newest messages for a client without a cursor."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from django.test import override_settings

from streams import apublish
from tests.views.support import PUBLIC, Opening, checkpoint, fill, message, prune

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.views.urls"),
    pytest.mark.usefixtures("public_channels"),
]


async def test_replay_sends_newest_messages_first(opening: Opening) -> None:
    """A checkpoint follows, and then live messages."""
    await fill("news", "news", "other", "news", "other")
    async with opening("/events/news/?replay=2") as stream:
        assert await stream.take(4) == [checkpoint(1), message(2, "news 2"), message(4, "news 4"), checkpoint(5)]
        await apublish("news", "live")
        assert await stream.take(1) == [message(6, "live")]


async def test_replay_counts_over_all_channels(opening: Opening) -> None:
    await fill("a", "b", "a", "c", "b")
    async with opening("/events/?channel=a&channel=b&replay=3") as stream:
        assert await stream.take(5) == [
            checkpoint(1),
            message(2, "b 2"),
            message(3, "a 3"),
            message(5, "b 5"),
            checkpoint(5),
        ]


async def test_replay_of_more_sends_everything(opening: Opening) -> None:
    await fill("other", "news")
    async with opening("/events/news/?replay=1000") as stream:
        assert (await stream.take(3))[1:] == [message(2, "news 2"), checkpoint(2)]


async def test_replay_of_empty_channel_is_checkpoint(opening: Opening) -> None:
    await fill("other")
    async with opening("/events/news/?replay=5") as stream:
        assert await stream.take(2) == [checkpoint(1), checkpoint(1)]


async def test_replay_of_zero_sends_nothing(opening: Opening) -> None:
    await fill("news")
    async with opening("/events/news/?replay=0") as stream:
        await apublish("news", "live")
        assert await stream.take(2) == [checkpoint(1), message(2, "live")]


async def test_replay_is_ignored_with_cursor(opening: Opening) -> None:
    await fill("news", "news", "news")
    async with opening("/events/news/?replay=3", headers={"Last-Event-ID": "2"}) as stream:
        assert await stream.take(3) == [checkpoint(2), message(3, "news 3"), checkpoint(3)]


async def test_replay_of_pruned_channel_is_no_gap(opening: Opening) -> None:
    await fill("news", "news", "news")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=1)
    async with opening("/events/news/?replay=3") as stream:
        assert (await stream.take(3))[1:] == [message(3, "news 3"), checkpoint(3)]


async def test_replay_of_mixed_channels_is_no_gap(opening: Opening) -> None:
    """A client without a cursor has missed nothing, however far back its replay reaches."""
    await fill("quiet", "busy", "busy", "busy")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=1)
    async with opening("/events/?channel=quiet&channel=busy&replay=2") as stream:
        assert await stream.take(4) == [checkpoint(0), message(1, "quiet 1"), message(4, "busy 4"), checkpoint(4)]


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "", "%D9%A3", "1001", "9" * 5000, "1e2", "%2B1", "0x1", "1%00"])
async def test_bad_replay_is_refused(opening: Opening, value: str) -> None:
    async with opening(f"/events/news/?replay={value}") as answer:
        shown = unquote_to_bytes(value).decode()[:100]
        assert (answer.status, await answer.json()) == (
            400,
            {
                "error": {
                    "code": "invalid-replay",
                    "message": "replay is a whole number from 0 to 1000 (STREAMS['MAX_REPLAY_MESSAGES']); "
                    f"got {shown!r}.",
                }
            },
        )


@override_settings(STREAMS={**PUBLIC, "MAX_REPLAY_MESSAGES": 2})
async def test_replay_is_bounded_by_setting(opening: Opening) -> None:
    async with opening("/events/news/?replay=2") as stream:
        assert stream.status == 200
    async with opening("/events/news/?replay=3") as answer:
        assert answer.status == 400
