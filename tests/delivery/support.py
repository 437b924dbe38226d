"""A pool of database threads that can hold back reads of the log, and streams that wait for these reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from streams import NewMessage, apublish_many
from streams.delivery.subscriber import Subscriber
from streams.protocol.sse import DecodedEvent, EventStreamDecoder
from streams.runtime import executor

# No replay is served from memory, and the hub reads the log only after a notice of new messages.
STREAMS = {"POLL_SECONDS": 600, "WINDOW_MESSAGES": 1, "DATABASE_THREADS": 4}
GREEDY = 20


class Pool:
    """The database threads. A read of the channel `greedy` occupies one of them until `release()` is called.

    Blocking real threads is not possible, because a test's database in memory has one thread for all reads.
    """

    def __init__(self) -> None:
        self.free = asyncio.Semaphore(4)
        self.gate = asyncio.Semaphore(0)
        self.begun: list[str] = []
        self._run = executor.run

    async def run(self, question: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if options:  # the call uses another pool
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
        await asyncio.sleep(0.05)  # reads that must not begin get time to do so
        assert self.begun == list(names)


def read(name: str) -> str:
    return name


class Reader:
    """A stream, and the chunks and events that its client has received."""

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


async def read_to_the_end(reader: Reader) -> None:
    with pytest.raises(StopAsyncIteration):
        await reader.read_until(lambda: False)
    await reader.stream.aclose()
