"""The heartbeats of EventStreamResponse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from streams import EventStreamResponse
from tests.http.support import HEARTBEAT, Items, body, decode, iterate


async def test_silent_stream_sends_heartbeats() -> None:
    pause = asyncio.Event()
    chunks = aiter(EventStreamResponse(iterate("a", then=pause.wait), heartbeat=0.01))
    async with asyncio.timeout(10):
        got = [await anext(chunks) for _ in range(6)]
        assert got == [HEARTBEAT, b"data: a\n\n", *[HEARTBEAT] * 4]
        pause.set()
        assert not [chunk async for chunk in chunks if chunk != HEARTBEAT]


async def test_heartbeats_lose_and_repeat_nothing() -> None:
    async def items() -> AsyncIterator[int]:
        for n in range(50):
            await asyncio.sleep(n % 7 / 1000)
            yield n

    sent = await body(EventStreamResponse(items(), heartbeat=0.002))
    assert [event.data for event in decode(sent)] == [str(n) for n in range(50)]


async def test_busy_stream_sends_no_heartbeats() -> None:
    async def items() -> AsyncIterator[int]:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            yield 1
            await asyncio.sleep(0.001)

    chunks = [chunk async for chunk in EventStreamResponse(items(), heartbeat=0.4)]
    assert chunks.count(HEARTBEAT) == 1  # the stream's first bytes


@pytest.mark.parametrize(
    ("pieces", "data"),
    [
        ([b"data: hel", b"lo\n\n"], "hello"),
        ([b"da", b"ta: hello\n\n"], "hello"),
        ([b"data: hello", b"\n", b"\n"], "hello"),
        ([b"data: hello\r", b"\n\r", b"\n"], "hello"),
        ([b"data: one\r", b"\ndata: two\r\n\r\n"], "one\ntwo"),
        ([b"data: mixed\n", b"\r\n"], "mixed"),
        (["data: caf\u00e9\n\n".encode()[:10], "data: caf\u00e9\n\n".encode()[10:]], "caf\u00e9"),
    ],
    ids=repr,
)
async def test_heartbeat_never_splits_an_event(pieces: list[bytes], data: str) -> None:
    """The event arrives in several chunks, with pauses."""

    async def items() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(0.1)

    sent = await body(EventStreamResponse(items(), heartbeat=0.02))
    assert [event.data for event in decode(sent)] == [data]
    event = b"".join(pieces)
    assert sent.count(event) == 1
    assert set(sent.replace(event, b"").split(HEARTBEAT)) == {b""}
    assert sent.count(HEARTBEAT) > 1


async def test_comments_do_not_replace_heartbeats() -> None:
    async def items() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        yield b": still here\n"
        await asyncio.sleep(1)

    sent = await body(EventStreamResponse(items(), heartbeat=0.02))
    assert sent.partition(b": still here\n")[2].count(HEARTBEAT) > 1


@pytest.mark.parametrize("heartbeat", [0, -1])
async def test_heartbeat_must_be_above_zero(heartbeat: float) -> None:
    with pytest.raises(ValueError, match=f"heartbeat.*above 0.*{heartbeat}"):
        EventStreamResponse(Items(), heartbeat=heartbeat)
