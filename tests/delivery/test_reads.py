"""Reads of the log take turns by caller: a caller with many streams delays neither other callers nor the hub."""

from __future__ import annotations

import asyncio

import pytest
from django.test import override_settings

from streams import apublish
from streams.delivery import subscriber
from streams.delivery.hub import Hub
from streams.delivery.reads import Reads
from streams.http.shutdown import reconnect_hint
from streams.protocol import sse
from tests.delivery.support import GREEDY, STREAMS, Pool, Reader, fill, read

pytestmark = pytest.mark.django_db(transaction=True)


def ask(reads: Reads, caller: str, *names: str) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(reads.ask(caller, read, name)) for name in names]


async def test_callers_take_turns(held: Pool) -> None:
    reads = Reads()
    tasks = ask(reads, "a", "a1", "a2", "a3") + ask(reads, "b", "b1", "b2") + ask(reads, "c", "c1")
    begun = ["a1", "b1", "c1"]
    await held.has_begun(*begun)
    for _ in tasks:
        held.release(1)
    assert await asyncio.gather(*tasks) == ["a1", "a2", "a3", "b1", "b2", "c1"]
    assert reads.waiting() == 0
    assert not reads._running
    assert not reads._queues


async def test_caller_has_its_share_of_threads(held: Pool) -> None:
    reads = Reads()
    tasks = ask(reads, "a", "a1", "a2", "a3")
    await held.has_begun("a1")
    assert reads.waiting() == 2
    held.release(1)
    await held.has_begun("a1", "a2")
    held.release(2)
    await asyncio.gather(*tasks)


async def test_concurrent_reads_are_bounded(held: Pool) -> None:
    reads = Reads()
    tasks = [task for caller in "abcdef" for task in ask(reads, caller, f"{caller}1", f"{caller}2")]
    await held.has_begun("a1", "b1", "c1", "d1")
    held.release(1)
    async with asyncio.timeout(30):
        while len(held.begun) < 5:
            await asyncio.sleep(0.01)
    assert held.begun[4] == "e1"  # this read comes before the second read of any other caller
    held.release(20)
    await asyncio.gather(*tasks)


async def test_equal_reads_share_earliest_turn(held: Pool) -> None:
    """An honest client does not wait for a greedy client's queue, even if it needs the same read."""
    reads = Reads()
    tasks = ask(reads, "greedy", "g1", "g2", "same") + ask(reads, "honest", "same")
    await held.has_begun("g1", "same")
    tasks += ask(reads, "third", "same")  # while it runs
    held.release(2)
    assert await tasks[-1] == await tasks[-2] == "same"
    held.release(10)
    await asyncio.gather(*tasks)
    assert sorted(held.begun) == ["g1", "g2", "same"]


async def test_abandoned_read_does_not_run(held: Pool) -> None:
    reads = Reads()
    tasks = ask(reads, "a", "a1", "a2", "a3") + ask(reads, "b", "b1")
    await held.has_begun("a1", "b1")
    for task in (tasks[0], tasks[1], tasks[3]):  # two of them run, and one waits
        task.cancel()
    await asyncio.wait(tasks[:2])
    held.release(10)
    assert await tasks[2] == "a3"
    assert sorted(held.begun) == ["a1", "a3", "b1"]
    async with asyncio.timeout(30):
        while reads._reads:  # the thread of "b1" still runs
            await asyncio.sleep(0.01)


async def test_failed_read_frees_its_turn() -> None:
    def fail(number: int) -> None:
        raise ValueError(f"number {number}")

    reads = Reads()
    first, second = await asyncio.gather(reads.ask("a", fail, 1), reads.ask("a", fail, 2), return_exceptions=True)
    assert (str(first), str(second)) == ("number 1", "number 2")
    assert await reads.ask("a", int, "3") == 3


async def test_honest_client_is_not_delayed(greedy: list[Reader], held: Pool) -> None:
    data = await fill(600)  # three reads
    honest = Reader("address of another", GREEDY + 5)
    await honest.read_until(lambda: len(honest.messages()) == 600)
    assert honest.messages() == data
    assert len(held.begun) == 1
    await honest.stream.aclose()


async def test_hub_and_publish_are_not_delayed(greedy: list[Reader]) -> None:
    live = Reader("address of another", GREEDY + 5)
    await live.read_until(lambda: len(live.events) == 2)  # the second checkpoint: it is live
    async with asyncio.timeout(30):
        message = await apublish("news", "now")
    hub = Hub.running()
    assert hub is not None
    async with asyncio.timeout(30):
        await hub.catch_up()
    await live.read_until(lambda: live.messages() == ["now"])
    assert hub.position == message.position
    await live.stream.aclose()


async def test_waiting_stream_sends_heartbeats_then_everything(
    held: Pool, greedy: list[Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "FIRST_BYTE_SECONDS", 0.05)
    with override_settings(STREAMS={**STREAMS, "HEARTBEAT_SECONDS": 0.05}):
        waiting = Reader("address of one", 0, "greedy")
        await waiting.read_until(lambda: len(waiting.chunks) == 3)
        assert waiting.chunks == [sse.HEARTBEAT] * 3
        held.release(1000)
        await waiting.read_until(lambda: len(waiting.messages()) == GREEDY + 5)
    assert waiting.messages() == [f"greedy {number}" for number in range(GREEDY + 5)]
    await waiting.stream.aclose()


async def test_waiting_stream_stops_at_once(greedy: list[Reader]) -> None:
    waiting = Reader("address of one", 0, "greedy")
    reading = asyncio.create_task(anext(waiting.stream))
    hub = Hub.running()
    assert hub is not None
    while hub.reads.waiting() < GREEDY:
        await asyncio.sleep(0.01)
    last = reconnect_hint()
    waiting.stream.stop(last)
    async with asyncio.timeout(10):
        assert await reading == last
        with pytest.raises(StopAsyncIteration):
            await anext(waiting.stream)
        await waiting.stream.aclose()
    assert waiting.stream not in hub.subscribers


async def test_leaving_stream_gives_up_its_turn(greedy: list[Reader]) -> None:
    hub = Hub.running()
    assert hub is not None
    while hub.reads.waiting() < GREEDY - 1:
        await asyncio.sleep(0.01)
    for reader in greedy:
        await reader.stream.aclose()
    assert hub.reads.waiting() == 0
