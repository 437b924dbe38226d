"""EventStreamResponse closes its iterator, however the response ends, and runs it in one task."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams import EventStreamResponse
from tests.http.support import HEARTBEAT, Items, Notes, body, decode, happens, wait_forever


@pytest.mark.parametrize("taken", [2, 3])
async def test_closed_stream_closes_its_iterator(taken: int) -> None:
    """The stream is closed between two items, and while it is silent."""
    notes = Notes()
    chunks = aiter(EventStreamResponse(notes.items(), heartbeat=0.01))
    for _ in range(taken):
        await anext(chunks)
    await chunks.aclose()
    assert notes == ["closed"]
    await chunks.aclose()
    assert notes == ["closed"]


async def test_cancelled_reader_closes_the_iterator() -> None:
    notes = Notes()

    async def read() -> None:
        async with contextlib.aclosing(aiter(EventStreamResponse(notes.items()))) as chunks:
            async for _ in chunks:
                pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert notes == ["closed"]


async def test_timeout_closes_the_iterator() -> None:
    notes = Notes()
    async with contextlib.aclosing(aiter(EventStreamResponse(notes.items(), timeout=0.05))) as chunks:
        assert [chunk async for chunk in chunks] == [HEARTBEAT, b"data: a\n\n"]
    assert notes == ["closed"]


async def test_unstarted_stream_closes_its_iterator() -> None:
    items = Items()
    await aiter(EventStreamResponse(items)).aclose()
    assert items.closed == 1


@pytest.mark.parametrize("taken", [0, 1, 2])
async def test_dropped_response_closes_its_iterator(taken: int) -> None:
    """If a client leaves while a middleware still works, no code calls the response's close()."""
    items = Items("a")
    response = EventStreamResponse(items)
    chunks = aiter(response)
    for _ in range(taken):
        await anext(chunks)
    del response, chunks
    gc.collect()
    await happens(lambda: items.closed == 1)


async def test_wrapped_response_needs_no_garbage_collector() -> None:
    """Middleware has wrapped the content of a response that is then dropped."""

    async def wrapped(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in content:
            yield chunk

    items = Items("a")
    response = EventStreamResponse(items)
    for _ in range(2):
        response.streaming_content = wrapped(response.streaming_content)
    gc.disable()
    try:
        del response
        await happens(lambda: items.closed == 1)
    finally:
        gc.enable()


@pytest.mark.parametrize("taken", [0, 1, 2])
async def test_closed_response_closes_its_iterator(taken: int) -> None:
    """Django calls close() last, in another thread, even if a middleware dropped the iterator."""
    items = Items("a")
    response = EventStreamResponse(items)
    chunks = aiter(response)
    for _ in range(taken):
        await anext(chunks)
    await asyncio.to_thread(response.close)
    await happens(lambda: items.closed == 1)


async def test_uncancellable_iterator_is_logged(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("streams.http.source.CLOSE_SECONDS", 0.2)
    let_go = asyncio.Event()

    async def stubborn() -> AsyncIterator[str]:
        yield "a"
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    chunks = aiter(EventStreamResponse(stubborn(), heartbeat=0.01))
    for _ in range(3):
        await anext(chunks)
    async with asyncio.timeout(10):
        await chunks.aclose()
    assert "stubborn" in caplog.text
    let_go.set()


async def test_iterator_runs_in_one_task() -> None:
    tasks = []

    async def items() -> AsyncIterator[int]:
        try:
            for n in range(3):
                tasks.append(asyncio.current_task())
                yield n
            await wait_forever()
        finally:
            tasks.append(asyncio.current_task())

    chunks = aiter(EventStreamResponse(items(), heartbeat=0.01))
    for _ in range(8):
        # Some servers ask for each chunk in another task.
        await asyncio.create_task(take(chunks))
    await chunks.aclose()
    assert len(tasks) == 4
    assert len(set(tasks)) == 1


async def take(chunks: AsyncIterator[bytes]) -> bytes:
    return await anext(chunks)


async def test_timeout_can_span_several_items() -> None:
    async def items() -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(0.1):
                yield "in time"
                await wait_forever()
        except TimeoutError:
            yield "timed out"

    sent = await body(EventStreamResponse(items(), heartbeat=0.02))
    assert [event.data for event in decode(sent)] == ["in time", "timed out"]
