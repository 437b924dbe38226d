"""Reads of the log take turns by caller: one caller with many streams holds up neither others nor the hub."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.test import override_settings

from streams import EventStreamResponse, NewMessage, apublish, apublish_many, log
from streams.delivery import subscriber
from streams.delivery.hub import Hub
from streams.delivery.reads import READS_PER_CALLER, Reads, read_page
from streams.delivery.subscriber import Subscriber
from streams.delivery.window import Window
from streams.http.shutdown import reconnect_hint
from streams.protocol import sse
from streams.protocol.sse import DecodedEvent, EventStreamDecoder
from streams.runtime import executor

pytestmark = pytest.mark.django_db(transaction=True)

# Nothing is served from memory, and the hub looks at the log only when a notice brings news.
STREAMS = {"POLL_SECONDS": 600, "WINDOW_MESSAGES": 1, "DATABASE_THREADS": 4}
GREEDY = 20


class Pool:
    """The log threads, of which a read of the channel `greedy` holds one until the gate lets it go.

    Threads that block could not be used with the test's database in memory, which has one thread for all.
    """

    def __init__(self) -> None:
        self.free = asyncio.Semaphore(4)
        self.gate = asyncio.Semaphore(0)
        self.begun: list[str] = []
        self._run = executor.run

    async def run(self, question: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if options:  # another pool
            return await self._run(question, *args, **options)
        async with self.free:
            if question is read or args[0] == ("greedy",):
                self.begun.append(str(args[-1]))
                await self.gate.acquire()
            return await self._run(question, *args)

    def release(self, count: int = 1000) -> None:
        for _ in range(count):
            self.gate.release()

    async def has_begun(self, *names: str) -> None:
        async with asyncio.timeout(30):
            while len(self.begun) < len(names):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # for those that must not begin
        assert self.begun == list(names)


def read(name: str) -> str:
    return name


@pytest.fixture
async def held(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pool]:
    pool = Pool()
    monkeypatch.setattr(executor, "run", pool.run)
    with override_settings(STREAMS=STREAMS):
        yield pool
        pool.release()


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
    assert READS_PER_CALLER == 1
    reads = Reads()
    tasks = ask(reads, "a", "a1", "a2", "a3")
    await held.has_begun("a1")
    assert reads.waiting() == 2
    held.release(1)
    await held.has_begun("a1", "a2")
    held.release(2)
    await asyncio.gather(*tasks)


async def test_reads_at_a_time_are_bounded(held: Pool) -> None:
    reads = Reads()
    tasks = [task for caller in "abcdef" for task in ask(reads, caller, f"{caller}1", f"{caller}2")]
    await held.has_begun("a1", "b1", "c1", "d1")
    held.release(1)
    async with asyncio.timeout(30):
        while len(held.begun) < 5:
            await asyncio.sleep(0.01)
    assert held.begun[4] == "e1"  # before the second of any other
    held.release(20)
    await asyncio.gather(*tasks)


async def test_equal_questions_share_the_earliest_turn(held: Pool) -> None:
    """An honest client that asks what a greedy one has in its queue does not wait for that queue."""
    reads = Reads()
    tasks = ask(reads, "greedy", "g1", "g2", "same") + ask(reads, "honest", "same")
    await held.has_begun("g1", "same")
    tasks += ask(reads, "third", "same")  # while it runs
    held.release(2)
    assert await tasks[-1] == await tasks[-2] == "same"
    held.release(10)
    await asyncio.gather(*tasks)
    assert sorted(held.begun) == ["g1", "g2", "same"]


async def test_question_without_askers_does_not_run(held: Pool) -> None:
    reads = Reads()
    tasks = ask(reads, "a", "a1", "a2", "a3") + ask(reads, "b", "b1")
    await held.has_begun("a1", "b1")
    for task in (tasks[0], tasks[1], tasks[3]):  # two that run, and one that waits
        task.cancel()
    await asyncio.wait(tasks[:2])
    held.release(10)
    assert await tasks[2] == "a3"
    assert sorted(held.begun) == ["a1", "a3", "b1"]
    async with asyncio.timeout(30):
        while reads._reads:  # "b1" ends in a thread of its own
            await asyncio.sleep(0.01)


async def test_read_that_fails_frees_its_turn() -> None:
    def fail(number: int) -> None:
        raise ValueError(f"number {number}")

    reads = Reads()
    first, second = await asyncio.gather(reads.ask("a", fail, 1), reads.ask("a", fail, 2), return_exceptions=True)
    assert (str(first), str(second)) == ("number 1", "number 2")
    assert await reads.ask("a", int, "3") == 3


# --- Streams ----------------------------------------------------------------------------------------------------------


class Reader:
    """A stream, and what its client has of it."""

    def __init__(self, caller: str, cursor: int, channel: str = "news") -> None:
        self.stream = Subscriber([channel], last_event_id=str(cursor), **({"caller": caller} if caller else {}))
        self.decoder = EventStreamDecoder()
        self.events: list[DecodedEvent] = []
        self.chunks: list[bytes] = []

    async def read(self) -> None:
        chunk = await anext(self.stream)
        self.chunks.append(chunk)
        self.events += self.decoder.feed(chunk)

    async def read_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await self.read()

    def messages(self) -> list[str]:
        return [event.data for event in self.events if event.event == "message"]


async def fill(count: int, channel: str = "news") -> list[str]:
    data = [f"{channel} {number}" for number in range(count)]
    await apublish_many([NewMessage(channel, text) for text in data])
    return data


@pytest.fixture
async def greedy(held: Pool) -> AsyncIterator[list[Reader]]:
    """Twenty streams of one caller, each from a cursor of its own, whose reads of the log do not come back."""
    await fill(GREEDY + 5, "greedy")
    readers = [Reader("address of one", cursor, "greedy") for cursor in range(1, GREEDY + 1)]
    tasks = [asyncio.create_task(reader.read()) for reader in readers]
    async with asyncio.timeout(30):
        while not held.begun:
            await asyncio.sleep(0.01)
    yield readers
    held.release(1000)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for reader in readers:
        await reader.stream.aclose()


async def test_honest_client_is_served_beside_greedy_ones(greedy: list[Reader], held: Pool) -> None:
    data = await fill(600)  # three reads
    honest = Reader("address of another", GREEDY + 5)
    await honest.read_until(lambda: len(honest.messages()) == 600)
    assert honest.messages() == data
    assert len(held.begun) == READS_PER_CALLER
    await honest.stream.aclose()


async def test_hub_and_publish_do_not_wait_for_reads(greedy: list[Reader]) -> None:
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


async def test_waiting_stream_has_heartbeats_and_then_everything(
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


async def test_waiting_stream_that_leaves_gives_its_turn_up(greedy: list[Reader]) -> None:
    hub = Hub.running()
    assert hub is not None
    while hub.reads.waiting() < GREEDY - 1:
        await asyncio.sleep(0.01)
    for reader in greedy:
        await reader.stream.aclose()
    assert hub.reads.waiting() == 0


@pytest.fixture
async def waits(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Event]:
    """Reads of the log wait while this event is not set. Heartbeats come quickly."""
    may_read = asyncio.Event()
    may_read.set()
    run = executor.run

    async def wait(question: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if not options:
            await may_read.wait()
        return await run(question, *args, **options)

    monkeypatch.setattr(executor, "run", wait)
    monkeypatch.setattr(subscriber, "FIRST_BYTE_SECONDS", 0.05)
    with override_settings(STREAMS={**STREAMS, "HEARTBEAT_SECONDS": 0.05}):
        yield may_read
        may_read.set()


async def read_heartbeat(reader: Reader, may_read: asyncio.Event) -> None:
    """Have the stream send a heartbeat while it waits for a read."""
    may_read.clear()
    await reader.read()
    assert reader.chunks[-1] == sse.HEARTBEAT


async def finish_step(reader: Reader, may_read: asyncio.Event) -> None:
    """Let the read end before the client asks for more than the heartbeat."""
    may_read.set()
    step = reader.stream._step
    assert step is not None
    await asyncio.wait([step], timeout=30)


@pytest.mark.parametrize("end", ["revoke", "stop"])
async def test_stream_stopped_after_heartbeat_sends_no_messages(waits: asyncio.Event, end: str) -> None:
    await fill(600)
    reader = Reader("", 0)
    await reader.read_until(lambda: len(reader.messages()) == 250)
    await read_heartbeat(reader, waits)
    await finish_step(reader, waits)
    if end == "revoke":
        reader.stream.revoke()
    else:
        reader.stream.stop(reconnect_hint())
    await until_the_end(reader)
    assert len(reader.messages()) == 250
    assert b"retry: " in reader.chunks[-1]


async def test_checkpoint_after_heartbeat_precedes_live_messages(waits: asyncio.Event) -> None:
    """An epoch with its fork at the cursor began during the read, so that the stream is live at once."""
    await fill(3)
    reader = Reader("", 0)
    await reader.read_until(lambda: len(reader.messages()) == 3)
    hub = Hub.running()
    assert hub is not None
    window, hub.position = hub.window, 4
    hub.window = Window(4, max_messages=1, max_bytes=1)  # the cursor is not in it
    await read_heartbeat(reader, waits)
    hub.window, hub.position, hub.epochs = window, 3, log.Epochs()
    await finish_step(reader, waits)
    await apublish("news", "live")
    await reader.read_until(lambda: len(reader.messages()) == 4)
    reader.stream.stop(reconnect_hint())
    await until_the_end(reader)
    assert reader.chunks[-3:-1] == [sse.checkpoint(3), b"id: 4\ndata: live\n\n"]
    assert reader.decoder.last_event_id == "4"


async def test_quiet_stream_has_heartbeats_between_empty_reads(
    waits: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its reads takes less than HEARTBEAT_SECONDS, and the log moves on beyond the window."""
    run = executor.run

    async def read_slowly(question: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if question is read_page:
            await apublish_many([NewMessage("busy", "1"), NewMessage("busy", "2"), NewMessage("busy", "3")])
            await asyncio.sleep(0.2)
        return await run(question, *args, **options)

    await fill(5, "busy")
    reader = Reader("", 0, "quiet")
    monkeypatch.setattr(executor, "run", read_slowly)
    with override_settings(STREAMS={**STREAMS, "HEARTBEAT_SECONDS": 0.3}):
        await reader.read_until(lambda: len(reader.events) == 1)
        async with asyncio.timeout(10):
            await reader.read()
            await reader.read()
    assert reader.chunks[-2:] == [sse.HEARTBEAT] * 2
    await reader.stream.aclose()


async def test_snapshot_after_the_end_can_be_stopped(waits: asyncio.Event) -> None:
    await apublish("news", "the end", event="done")
    ended = asyncio.Event()

    async def snapshot() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    stream = Subscriber(["news"], snapshot=snapshot, final_events=["done"])
    assert await anext(stream) == await anext(stream) == sse.HEARTBEAT
    last = reconnect_hint()
    stream.stop(last)
    async with asyncio.timeout(2):
        assert await anext(stream) == last
        await stream.aclose()
    assert ended.is_set()


async def test_heartbeat_leaves_snapshot_its_thread(waits: asyncio.Event) -> None:
    """A snapshot can have a query open in the request's thread and connection."""
    done = asyncio.Event()

    async def snapshot() -> bool:
        before = await sync_to_async(threading.current_thread)()
        await done.wait()
        return before is await sync_to_async(threading.current_thread)()

    async with ThreadSensitiveContext():
        response = EventStreamResponse(Subscriber(["news"], snapshot=snapshot))
        chunks = aiter(response)
        assert await anext(chunks) == await anext(chunks) == sse.HEARTBEAT
        done.set()
        async with asyncio.timeout(30):
            while (chunk := await anext(chunks)) == sse.HEARTBEAT:
                pass
        await response.aclose()
    assert b"data: true\n" in chunk


# --- The time of a replay ---------------------------------------------------------------------------------------------


async def until_the_end(reader: Reader) -> None:
    with pytest.raises(StopAsyncIteration):
        await reader.read_until(lambda: False)
    await reader.stream.aclose()


@override_settings(STREAMS={**STREAMS, "MAX_REPLAY_SECONDS": 0.000001})
async def test_replay_ends_in_time_and_goes_on_with_newer_cursor() -> None:
    data = await fill(1000)
    got: list[str] = []
    cursor, connections = 0, 0
    while len(got) < len(data):
        reader = Reader("", cursor)
        await until_the_end(reader)
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
async def test_replay_can_be_without_limit() -> None:
    data = await fill(600)
    reader = Reader("", 0)
    reader.stream._behind_since -= 1e6
    await reader.read_until(lambda: reader.messages() == data)
    await reader.stream.aclose()
