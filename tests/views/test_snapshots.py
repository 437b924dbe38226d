"""get_snapshot(): the state that a client gets instead of a replay."""

from __future__ import annotations

import json
import logging

import pytest

from tests.views.support import Opening, checkpoint, fill, message, prune, reset, take_reset

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.views.urls"),
    pytest.mark.usefixtures("public_channels"),
]


async def test_snapshot_replaces_history_for_fresh_client(opening: Opening) -> None:
    await fill("score.7", "score.all")
    async with opening("/scores/7/?replay=5") as stream:
        state = '{"match":7,"channels":["score.7","score.all"],"users":0}'
        assert (await stream.take(2)) == [checkpoint(2), ("stream-snapshot", "2", state)]
        await fill("score.7")
        live = await stream.take(2)
        assert [event for event in live if event[0] == "message"] == [message(3, "score.7 1")]


async def test_snapshot_replaces_history_after_reset(opening: Opening) -> None:
    await fill("score.7", "score.7", "score.7")
    await prune(RETENTION_MESSAGES_PER_CHANNEL=2)
    for last_id, reason in (("0", "pruned"), ("9", "unknown-id"), ("x", "malformed-id")):
        async with opening("/scores/7/", headers={"Last-Event-ID": last_id}) as stream:
            assert await take_reset(stream) == reset(reason, last_id, id=3, earliest=2, head=3)
            [(event, id, _), end] = await stream.take(2)
            assert (event, id) == ("stream-snapshot", "3")
            assert end == checkpoint(3)


async def test_replayed_client_gets_no_snapshot(opening: Opening) -> None:
    await fill("score.7", "score.all")
    async with opening("/scores/7/", headers={"Last-Event-ID": "1"}) as stream:
        assert await stream.take(3) == [checkpoint(1), message(2, "score.all 2"), checkpoint(2)]


async def test_message_during_snapshot_comes_after(opening: Opening) -> None:
    async with opening("/meanwhile/news/") as stream:
        assert await stream.take(3) == [
            checkpoint(0),
            ("stream-snapshot", "0", "state\nof two lines"),
            message(1, "while the snapshot was made"),
        ]


@pytest.mark.parametrize("url", ["/fails/news/", "/unencodable/news/"])
@pytest.mark.parametrize("last_event_id", ["", "x"])
async def test_failed_snapshot_shows_no_details(
    opening: Opening, url: str, last_event_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream ends with an error event, and the exception is logged."""
    async with opening(url, headers={"Last-Event-ID": last_event_id}) as stream:
        assert stream.status == 200
        [(event, _, data)] = await stream.take(1)
        assert (event, json.loads(data)["code"]) == ("stream-error", "internal")
        assert await stream.take(1) == [], "the stream ends"
        assert b"secret" not in stream.raw
        assert b"bytes" not in stream.raw
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "get_snapshot" in str(record.exc_text) or "encode_data" in str(record.exc_text)
