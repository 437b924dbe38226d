"""IteratorSource: one task runs an iterator. Other tasks read from it and stop it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams.http.source import IteratorSource
from streams.protocol.sse import HEARTBEAT


async def numbers(end: int, notes: list[Any]) -> AsyncIterator[int]:
    try:
        for n in range(end):
            notes.append(n)
            yield n
        await asyncio.Event().wait()
    finally:
        notes.append("closed")


async def test_stopped_while_it_waits_it_ends_at_once() -> None:
    notes: list[Any] = []
    feed = IteratorSource(numbers(1, notes), heartbeat_seconds=60)
    assert [await anext(feed), await anext(feed)] == [HEARTBEAT, b"data: 0\n\n"]
    asyncio.get_running_loop().call_later(0.05, feed.stop)
    async with asyncio.timeout(10):
        assert [chunk async for chunk in feed] == []
    await feed.aclose()
    assert notes == [0, "closed"]


async def test_iterator_is_closed_right_after_first_heartbeat() -> None:
    """The task has not started yet. If it were cancelled now, it would not close the iterator."""

    class Items:
        closed = 0

        def __aiter__(self) -> Items:
            return self

        async def __anext__(self) -> int:
            raise AssertionError("No item was requested.")

        async def aclose(self) -> None:
            self.closed += 1

    items = Items()
    feed = IteratorSource(items, heartbeat_seconds=60)
    assert await anext(feed) == HEARTBEAT
    await feed.aclose()
    await feed.aclose()
    await asyncio.sleep(0)
    assert items.closed == 1


async def test_stopped_between_two_chunks_it_ends() -> None:
    feed = IteratorSource(numbers(5, []), heartbeat_seconds=60)
    assert [await anext(feed), await anext(feed)] == [HEARTBEAT, b"data: 0\n\n"]
    feed.stop()
    assert [chunk async for chunk in feed] == []
    await feed.aclose()


async def test_stopped_before_it_began_it_ends() -> None:
    feed = IteratorSource(numbers(5, []), heartbeat_seconds=60)
    feed.stop()
    assert b"".join([chunk async for chunk in feed]) in (b"", HEARTBEAT)
    await feed.aclose()


async def test_interrupted_wait_loses_nothing() -> None:
    go_on = asyncio.Event()

    async def items() -> AsyncIterator[str]:
        yield "a"
        await go_on.wait()
        yield "b"

    feed = IteratorSource(items(), heartbeat_seconds=60)
    assert [await anext(feed), await anext(feed)] == [HEARTBEAT, b"data: a\n\n"]
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(feed), 0.02)
    go_on.set()
    assert [chunk async for chunk in feed] == [b"data: b\n\n"]


async def test_closed_twice_and_at_once_it_closes_the_iterator_once() -> None:
    notes: list[Any] = []
    feed = IteratorSource(numbers(1, notes), heartbeat_seconds=60)
    assert [await anext(feed), await anext(feed)] == [HEARTBEAT, b"data: 0\n\n"]
    await asyncio.gather(feed.aclose(), feed.aclose())
    await feed.aclose()
    assert notes == [0, "closed"]


async def test_closed_before_its_first_item_was_asked_for_it_never_asks() -> None:
    notes: list[Any] = []
    feed = IteratorSource(numbers(1, notes), heartbeat_seconds=60)
    assert await anext(feed) == HEARTBEAT
    await feed.aclose()
    assert notes == []


async def test_iterator_without_aclose_is_fine() -> None:
    class Bare:
        def __aiter__(self) -> Bare:
            return self

        async def __anext__(self) -> str:
            await asyncio.Event().wait()
            raise StopAsyncIteration

    feed = IteratorSource(Bare(), heartbeat_seconds=0.01)
    assert [await anext(feed), await anext(feed)] == [HEARTBEAT, HEARTBEAT]
    async with asyncio.timeout(10):
        await feed.aclose()


async def test_closed_feed_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    for taken in range(4):
        feed = IteratorSource(numbers(2, []), heartbeat_seconds=0.01)
        for _ in range(taken):
            await anext(feed)
        await feed.aclose()
    feed = IteratorSource(numbers(2, []), heartbeat_seconds=0.01)
    del feed
    gc.collect()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
