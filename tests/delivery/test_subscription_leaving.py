"""A subscription ends with `break`, aclose(), its task or its event loop."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from streams.delivery.hub import Hub
from streams.delivery.subscription import subscribe
from tests.delivery.test_subscription import fill, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


def open_in_hub() -> int:
    hub = Hub.running()
    return len(hub.subscribers) if hub else 0


async def test_break_closes_the_subscription() -> None:
    await fill("1", "2")
    async for event in subscribe("news", after=0):
        assert event.data == "1"
        assert open_in_hub() == 1
        break
    gc.collect()
    await wait_for(lambda: open_in_hub() == 0)


@pytest.mark.parametrize("begin", [True, False])
async def test_aclose_ends_another_tasks_loop(begin: bool) -> None:
    events = subscribe("news")
    if begin:
        await events.__aenter__()

    async def iterate() -> list[str]:
        return [event.data async for event in events]

    task = asyncio.create_task(iterate())
    await asyncio.sleep(0.01)
    await events.aclose()
    assert await asyncio.wait_for(task, 10) == []
    assert open_in_hub() == 0
    assert [event async for event in events] == []


@pytest.mark.parametrize("opened", [True, False])
async def test_cancelled_task_leaves_with_its_block(opened: bool) -> None:
    async def iterate() -> None:
        async with subscribe("news") as events:
            async for _ in events:
                pass

    task = asyncio.create_task(iterate())
    await wait_for(lambda: open_in_hub() == 1)
    if opened:
        await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_in_hub() == 0


async def test_each_event_loop_can_subscribe() -> None:
    """Here in a thread with a loop of its own, whose end ends the iteration."""
    begun, found = threading.Event(), []

    async def iterate() -> None:
        events = subscribe("news")
        await events.__aenter__()
        begun.set()
        found.append((await anext(events)).data)
        asyncio.create_task(anext(events))  # type: ignore[arg-type]  # it is still waiting when the loop ends
        await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: asyncio.run(iterate()))
    thread.start()
    await asyncio.to_thread(begun.wait, 30)
    await fill("hello")
    await asyncio.to_thread(thread.join, 30)
    assert found == ["hello"]
    assert not thread.is_alive()
