"""Gaps after pruning: a client that missed messages gets a reset first, and no other client gets one."""

from __future__ import annotations

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.test import override_settings

from streams import apublish, log
from tests.views.support import PUBLIC, Opening, checkpoint, fill, message, prune, reset, take_reset

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.views.urls"),
    pytest.mark.usefixtures("public_channels"),
]


async def test_pruned_history_is_reset_first(opening: Opening) -> None:
    """The messages that are still in the log follow."""
    await fill("news", "news", "news", "other", "news")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=2)
    async with opening("/events/news/", headers={"Last-Event-ID": "1"}) as stream:
        assert await take_reset(stream) == reset("pruned", "1", id=1, earliest=3, head=5)
        assert stream.raw.startswith(b"retry: 3000\nevent: stream-reset\n")
        assert await stream.take(3) == [message(3, "news 3"), message(5, "news 5"), checkpoint(5)]
        await apublish("news", "live")
        assert await stream.take(1) == [message(6, "live")]


async def test_fully_pruned_history_has_no_earliest(opening: Opening) -> None:
    await fill("news", "other", "news", "other")
    await asyncio.sleep(0.005)  # SQLite's clock has a resolution of one millisecond
    await prune(RETENTION_SECONDS=0.000001)
    async with opening("/events/news/", headers={"Last-Event-ID": "1"}) as stream:
        assert await take_reset(stream) == reset("pruned", "1", id=1, earliest=None, head=4)
        assert await stream.take(1) == [checkpoint(4)]


@pytest.mark.parametrize("window", [1, 2000], ids=["from the log", "from the window"])
async def test_cursor_at_pruned_edge_missed_nothing(opening: Opening, window: int) -> None:
    """The cursor is the newest message that was pruned."""
    await fill("news", "news", "news", "news")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=2)
    with override_settings(STREAMS={**PUBLIC, "WINDOW_MESSAGES": window}):
        async with opening("/events/news/", headers={"Last-Event-ID": "2"}) as stream:
            replayed = [checkpoint(2), message(3, "news 3"), message(4, "news 4"), checkpoint(4)]
            assert await stream.take(4) == replayed


async def test_one_pruned_channel_is_gap(opening: Opening) -> None:
    await fill("busy", "quiet", "busy", "busy")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=1)
    async with opening("/events/?channel=quiet&channel=busy", headers={"Last-Event-ID": "1"}) as stream:
        assert await take_reset(stream) == reset("pruned", "1", id=1, earliest=2, head=4)
        assert await stream.take(3) == [message(2, "quiet 2"), message(4, "busy 4"), checkpoint(4)]


async def test_quiet_channel_gives_no_false_reset(opening: Opening) -> None:
    await fill("quiet", "busy", "busy", "busy", "quiet", "busy")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=2)
    async with opening("/events/quiet/", headers={"Last-Event-ID": "1"}) as stream:
        assert await stream.take(3) == [checkpoint(1), message(5, "quiet 5"), checkpoint(6)]


async def test_unused_channel_gives_no_false_reset(opening: Opening) -> None:
    await fill("busy", "busy", "busy")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=1)
    async with opening("/events/empty/?last_event_id=0") as stream:
        assert await stream.take(2) == [checkpoint(0), checkpoint(3)]


async def test_forgotten_channels_give_no_false_reset(opening: Opening) -> None:
    await fill("news", *(f"once.{n}" for n in range(9)), "news")
    await sync_to_async(log.delete_through)(10, spared=["news"], limit=100)
    await sync_to_async(log.forget_pruned_channels)(keep=0)
    async with opening("/events/news/", headers={"Last-Event-ID": "4"}) as stream:
        assert await stream.take(3) == [checkpoint(4), message(11, "news 11"), checkpoint(11)]
    async with opening("/events/once.2/", headers={"Last-Event-ID": "2"}) as stream:
        assert await take_reset(stream) == reset("pruned", "2", id=2, earliest=None, head=11)


async def test_gap_is_reported_once(opening: Opening) -> None:
    """A client that comes back with its new cursor gets no second reset."""
    await fill("news", "news", "news")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=1)
    async with opening("/events/news/", headers={"Last-Event-ID": "1"}) as stream:
        assert (await stream.take(3))[0][0] == "stream-reset"
    async with opening("/events/news/", headers={"Last-Event-ID": "3"}) as stream:
        assert await stream.take(2) == [checkpoint(3), checkpoint(3)]
