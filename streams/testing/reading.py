"""Read the events of a response that Django's AsyncClient has opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from streams.protocol.events import CONTROL_PREFIX
from streams.protocol.sse import DecodedEvent, EventStreamDecoder


async def iterate_events(response: Any, *, control: bool = False) -> AsyncGenerator[DecodedEvent, None]:
    """Yield the events of a streaming response, as an EventSource would dispatch them.

    control: True to yield control events too (`stream-checkpoint`, `stream-reset` and so on).
    """
    decoder = EventStreamDecoder()
    try:
        async for chunk in response:
            for event in decoder.feed(chunk):
                if control or not event.event.startswith(CONTROL_PREFIX):
                    yield event
    finally:
        # The test client wraps the body in generators, and closing these does not close the body.
        if hasattr(response, "aclose"):
            await response.aclose()


async def read_events(response: Any, count: int, *, timeout: float = 10.0, control: bool = False) -> list[DecodedEvent]:
    """Return the next `count` events, or fewer if the stream ends first. The stream is closed afterwards.

    timeout: In seconds. TimeoutError is raised after it, with the events so far in its message.
    control: See iterate_events().
    """
    events: list[DecodedEvent] = []
    try:
        async with asyncio.timeout(timeout), aclosing(iterate_events(response, control=control)) as stream:
            async for event in stream:
                events.append(event)
                if len(events) >= count:
                    break
    except TimeoutError:
        raise TimeoutError(f"{len(events)} of {count} events arrived within {timeout} s: {events!r}") from None
    return events
