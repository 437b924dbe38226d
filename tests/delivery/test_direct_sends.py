"""Streams that call the server's `send` themselves: sends that wait or fail, and streams that end in the meantime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from django.test import override_settings

from streams import apublish
from streams.delivery.cohorts import GROUP
from streams.delivery.subscriber import Subscriber
from streams.protocol import sse
from tests.support.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


class Server:
    """A request: its task iterates the stream and sends what it gets, as Django's does."""

    def __init__(self, stream: Subscriber) -> None:
        self.stream = stream
        self.sent: list[bytes] = []  # by both ways, in order
        self.woken = 0  # the chunks that the task has sent
        self.free = asyncio.Event()
        self.free.set()
        self.error: Exception | None = None
        self.is_sending = False
        stream.send_directly(self.send)
        self.task = asyncio.create_task(self._serve())

    async def send(self, event: Any) -> None:
        assert not self.is_sending, "it sends two chunks at once"
        if self.error is not None:
            raise self.error
        self.is_sending = True
        try:
            await self.free.wait()
            self.sent.append(event["body"])
        finally:
            self.is_sending = False

    async def _serve(self) -> None:
        try:
            async for chunk in self.stream:
                self.woken += 1
                await self.send({"body": chunk})
        finally:
            await self.stream.aclose()

    def data(self) -> list[str]:
        found = sse.EventStreamDecoder().feed(b"".join(self.sent))
        return [event.data for event in found if event.event == "message"]

    async def has(self, *data: str) -> None:
        await wait_for(lambda: self.data() == list(data))

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.fixture(autouse=True)
def tiny_queues() -> Iterator[None]:
    with override_settings(STREAMS={"QUEUE_MESSAGES": 3}):
        yield


async def serve(stream: Subscriber) -> Server:
    server = Server(stream)
    await wait_for(lambda: stream._waiter is not None)  # it is live, and its task waits
    server.woken = 0
    return server


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    running = await serve(Subscriber(["news"]))
    yield running
    await running.end()


async def test_messages_wake_no_task(server: Server) -> None:
    for text in "abc":
        await apublish("news", text)
    await server.has("a", "b", "c")
    assert server.woken == 0
    assert server.stream.cursor == 3
    assert server.stream.has_received(3)


async def test_messages_wait_for_a_send_that_waits(server: Server) -> None:
    server.free.clear()
    await apublish("news", "a")
    await wait_for(lambda: server.is_sending)
    assert server.stream.unsent_since() is not None
    await apublish("news", "b")
    await wait_for(lambda: len(server.stream._queue) == 1)
    assert server.sent[-1].endswith(b"{}\n\n")
    server.free.set()
    await server.has("a", "b")
    await apublish("news", "c")
    await server.has("a", "b", "c")
    assert server.woken == 1, "the task sends what was queued, and the hub goes on"
    assert server.stream.unsent_since() is None


async def test_stream_that_falls_behind_reads_on(server: Server) -> None:
    server.free.clear()
    for number in range(9):
        await apublish("news", str(number))
        await asyncio.sleep(0.01)
    await wait_for(lambda: not server.stream._live)
    server.free.set()
    await server.has(*map(str, range(9)))


async def test_failing_send_fails_in_the_task(server: Server) -> None:
    server.error = ConnectionResetError("gone")
    await apublish("news", "a")
    await asyncio.wait([server.task], timeout=10)
    assert isinstance(server.task.exception(), ConnectionResetError)


async def test_send_that_fails_after_waiting_fails_in_the_task(server: Server) -> None:
    async def send(event: Any) -> None:
        await asyncio.sleep(0.01)
        raise ConnectionResetError("gone")

    server.stream.send_directly(send)
    server.error = ConnectionResetError("gone")
    await apublish("news", "a")
    await asyncio.wait([server.task], timeout=10)
    assert isinstance(server.task.exception(), ConnectionResetError)


async def test_client_that_leaves_ends_the_send(server: Server) -> None:
    server.free.clear()
    await apublish("news", "a")
    await wait_for(lambda: server.is_sending)
    await server.end()
    await wait_for(lambda: not server.is_sending)


@pytest.mark.parametrize("last", [b"", b"retry: 5\n"])
async def test_stop_comes_after_a_send_that_waits(server: Server, last: bytes) -> None:
    server.free.clear()
    await apublish("news", "a")
    await wait_for(lambda: server.is_sending)
    server.stream.stop(last)
    await asyncio.sleep(0.01)
    assert not server.task.done()
    server.free.set()
    await asyncio.wait([server.task], timeout=10)
    assert server.task.done()
    assert server.data() == ["a"]
    assert b"".join(server.sent).endswith(last)


async def test_final_event_ends_the_response() -> None:
    server = await serve(Subscriber(["news"], final_events=["done"]))
    await apublish("news", "a")
    await apublish("news", "b", event="done")
    await asyncio.wait([server.task], timeout=10)
    assert server.task.done()
    assert b"event: done\n" in server.sent[-1]


async def test_heartbeat_comes_between_messages(server: Server) -> None:
    await apublish("other", "x")
    await wait_for(lambda: server.stream._hub.position == 1)
    server.stream.beat(float("inf"))
    await apublish("news", "a")
    await server.has("a")
    checkpoints = [chunk for chunk in server.sent if b"stream-checkpoint" in chunk]
    assert checkpoints[-1].startswith(b"event: stream-checkpoint\nid: 1\n")


async def test_failing_stream_does_not_stop_the_others(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    others = [await serve(Subscriber(["news"])) for _ in range(GROUP + 1)]

    class Broken(Subscriber):
        def deliver(self, batch: Any, now: float) -> bool:
            raise RuntimeError("broken")

    broken = await serve(Broken(["news"]))
    last = await serve(Subscriber(["news"]))
    await apublish("news", "a")
    for each in (server, *others, broken, last):
        await each.has("a")
    assert "could not be handed to a stream" in caplog.text
    for each in (*others, broken, last):
        await each.end()


async def test_heartbeat_of_a_stream_that_joins_waits() -> None:
    """It is among the hub's subscribers before it knows the hub."""
    stream = Subscriber(["news"])
    stream.beat(float("inf"))
    await stream.aclose()
