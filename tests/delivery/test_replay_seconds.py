"""MAX_REPLAY_SECONDS: a long replay ends, and its client continues with a newer cursor."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from django.test import override_settings

from streams import apublish, log
from streams.protocol import sse
from tests.delivery.support import STREAMS, Reader, fill, read_to_the_end

pytestmark = pytest.mark.django_db(transaction=True)


@override_settings(STREAMS={**STREAMS, "MAX_REPLAY_SECONDS": 0.000001})
async def test_long_replay_continues_with_newer_cursor() -> None:
    data = await fill(1000)
    got: list[str] = []
    cursor, connections = 0, 0
    while len(got) < len(data):
        reader = Reader("", cursor)
        await read_to_the_end(reader)
        assert reader.chunks[-1].startswith(sse.checkpoint(int(reader.decoder.last_event_id)))
        assert b"\nretry: " in reader.chunks[-1]
        assert int(reader.decoder.last_event_id) > cursor
        cursor = int(reader.decoder.last_event_id)
        got += reader.messages()
        connections += 1
    assert got == data
    assert connections > 1


@override_settings(STREAMS={**STREAMS, "MAX_REPLAY_SECONDS": 0.05})
async def test_replay_without_progress_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    data = await fill(20)
    whole = log.page

    def slow(*args: Any) -> log.Page:
        time.sleep(0.2)
        return whole(*args)

    monkeypatch.setattr(log, "page", slow)
    reader = Reader("", 0)
    await reader.read_until(lambda: reader.messages() == data)
    await reader.stream.aclose()


@override_settings(STREAMS={**STREAMS, "MAX_REPLAY_SECONDS": 0.05})
async def test_live_stream_is_not_ended() -> None:
    await fill(20)
    reader = Reader("", 20)
    await reader.read_until(lambda: len(reader.events) == 2)
    await asyncio.sleep(0.1)
    await apublish("news", "after the limit")
    await reader.read_until(lambda: reader.messages() == ["after the limit"])
    await asyncio.sleep(0.1)
    await apublish("news", "and again")
    await reader.read_until(lambda: reader.messages()[1:] == ["and again"])
    await reader.stream.aclose()


@override_settings(STREAMS={**STREAMS, "MAX_REPLAY_SECONDS": None})
async def test_replay_can_have_no_limit() -> None:
    data = await fill(600)
    reader = Reader("", 0)
    reader.stream._behind_since -= 1e6
    await reader.read_until(lambda: reader.messages() == data)
    await reader.stream.aclose()
