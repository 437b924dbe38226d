"""Iterators for EventStreamResponse, and functions that read its content."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from streams import EventStreamResponse
from streams.protocol.sse import DecodedEvent, EventStreamDecoder

HEARTBEAT = b":\n"
SECRET = "the password is hunter2"


async def iterate(*items: Any, then: Callable[[], Any] | None = None) -> AsyncGenerator[Any, None]:
    for item in items:
        yield item
    if then is not None:
        await then()


async def wait_forever() -> None:
    await asyncio.Event().wait()


async def body(response: EventStreamResponse, *, within: float = 10.0) -> bytes:
    """Return all bytes that the response sends."""
    async with asyncio.timeout(within):
        return b"".join([chunk async for chunk in response])


def decode(content: bytes) -> list[DecodedEvent]:
    return EventStreamDecoder().feed(content)


class Items:
    """An async iterator that is not a generator, and counts how often it is closed."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)
        self.closed = 0

    def __aiter__(self) -> Items:
        return self

    async def __anext__(self) -> Any:
        if not self.items:
            await wait_forever()
        return self.items.pop(0)

    async def aclose(self) -> None:
        self.closed += 1


async def happens(condition: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


class Notes(list[str]):
    """A record of the events in the life of an iterator."""

    async def items(self) -> AsyncGenerator[str, None]:
        try:
            yield "a"
            await wait_forever()
        finally:
            await asyncio.sleep(0)  # cleaning up can need the event loop
            self.append("closed")
