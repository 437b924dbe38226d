"""Cursors from another log, and cursors that are not a position: a reset comes first, never an HTTP error."""

from __future__ import annotations

import pytest

from streams import apublish
from streams.models import Channel, LogHead, Message
from streams.runtime import executor
from tests.views.support import Opening, checkpoint, fill, message, prune, reset, take_reset

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.views.urls"),
    pytest.mark.usefixtures("public_channels"),
]


# int() refuses more than 4,300 digits, and no database column holds 20.
@pytest.mark.parametrize(
    "requested",
    ["3", "1000", "9" * 18, "9" * 19, "9" * 20, "9" * 5000],
    ids=lambda requested: f"{len(requested)} digits",
)
async def test_id_above_head_is_unknown(opening: Opening, requested: str) -> None:
    await fill("news", "other")
    async with opening("/events/news/", headers={"Last-Event-ID": requested}) as stream:
        assert await take_reset(stream) == reset("unknown-id", requested[:100], id=0, earliest=1, head=2)
        assert await stream.take(2) == [message(1, "news 1"), checkpoint(2)]
        await apublish("news", "live")
        assert await stream.take(1) == [message(3, "live")]


def empty_the_log() -> None:
    for model in (Message, LogHead, Channel):
        model.objects.all().delete()


async def test_replaced_log_resets_open_stream(opening: Opening) -> None:
    await fill("news", "other", "news")
    async with opening("/events/news/", headers={"Last-Event-ID": "0"}) as stream:
        assert await stream.take(4) == [checkpoint(0), message(1, "news 1"), message(3, "news 3"), checkpoint(3)]
        await executor.run(empty_the_log)
        await fill("news", "news")
        assert await take_reset(stream) == reset("unknown-id", "3", id=0, earliest=1, head=2)
        assert await stream.take(2) == [message(1, "news 1"), message(2, "news 2")]
        await apublish("news", "live")
        assert (await stream.take(1))[0] in (message(3, "live"), checkpoint(2))


async def test_id_for_empty_log_is_unknown(opening: Opening) -> None:
    async with opening("/events/news/", headers={"Last-Event-ID": "7"}) as stream:
        assert await take_reset(stream) == reset("unknown-id", "7", id=0, earliest=None, head=0)
        assert await stream.take(1) == [checkpoint(0)]


async def test_unknown_id_is_reported_once(opening: Opening) -> None:
    """The log was pruned as well, which causes no second reset."""
    await fill("news", "news", "news")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=1)
    async with opening("/events/news/", headers={"Last-Event-ID": "9"}) as stream:
        assert await take_reset(stream) == reset("unknown-id", "9", id=0, earliest=3, head=3)
        assert await stream.take(2) == [message(3, "news 3"), checkpoint(3)]


@pytest.mark.parametrize(
    "requested",
    [
        "abc",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "0x1",
        "1_000",
        "1 2",
        "null",
        "undefined",
        "1;2",
        "²",
        "٣",
        "１",
        "x" * 150,
        "1\0",
    ],
    ids=ascii,
)
async def test_malformed_id_is_reset_first(opening: Opening, requested: str) -> None:
    """The messages that are still in the log follow."""
    await fill("news", "other")
    quoted = "".join(f"%{byte:02X}" for byte in requested.encode())
    async with opening(f"/events/news/?last_event_id={quoted}") as stream:
        assert stream.status == 200, "an EventSource does not reconnect after any other status"
        assert await take_reset(stream) == reset("malformed-id", requested[:100], id=0, earliest=1, head=2)
        assert await stream.take(2) == [message(1, "news 1"), checkpoint(2)]


async def test_malformed_id_in_header_is_reset(opening: Opening) -> None:
    async with opening("/events/news/", headers={"Last-Event-ID": "caf\xe9"}) as stream:
        event, id, data = await take_reset(stream)
        assert (event, id, data["reason"]) == ("stream-reset", "0", "malformed-id")
