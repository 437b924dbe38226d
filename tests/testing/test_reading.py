"""The helpers with which users read streams in their own tests."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from django.http import StreamingHttpResponse
from django.test import AsyncClient

from streams import Event, EventStreamResponse, apublish
from streams.testing import DecodedEvent, iterate_events, read_events
from tests.support.response_views import journal


class Source:
    """A generator of events that records whether it was closed."""

    def __init__(self, *items: Any, endless: bool = False) -> None:
        self.items = items
        self.endless = endless
        self.closed = False

    async def __aiter__(self) -> Any:
        try:
            for item in self.items:
                yield item
            if self.endless:
                await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.closed = True


async def test_events_are_read_as_an_event_source_would_dispatch_them() -> None:
    response = EventStreamResponse(Source("a\nb", Event({"n": 1}, event="update", id=7), "c"))
    assert await read_events(response, 3) == [
        DecodedEvent("a\nb"),
        DecodedEvent('{"n":1}', event="update", id="7"),
        DecodedEvent("c", id="7"),
    ]


async def test_only_as_many_as_were_asked_for_are_read() -> None:
    source = Source("a", "b", "c", endless=True)
    assert [event.data for event in await read_events(EventStreamResponse(source), 2)] == ["a", "b"]


async def test_stream_that_ends_early_gives_what_came() -> None:
    assert [event.data for event in await read_events(EventStreamResponse(Source("a")), 5)] == ["a"]


async def test_stream_is_closed_after_reading() -> None:
    source = Source("a", endless=True)
    response = EventStreamResponse(source)
    await read_events(response, 1)
    assert source.closed
    assert await read_events(response, 1) == []


async def test_stream_that_the_test_client_opened_is_closed_after_reading() -> None:
    response = await AsyncClient().get("/test/response/endless/?key=read-by-test-client")
    assert [event.data for event in await read_events(response, 1)] == ["first"]
    assert journal.pop("read-by-test-client") == ["started", "closed"]


async def test_stream_is_closed_where_iterating_it_is_left() -> None:
    response = await AsyncClient().get("/test/response/endless/?key=iterated")
    async with aclosing(iterate_events(response)) as events:
        async for event in events:
            assert event.data == "first"
            break
    assert journal.pop("iterated") == ["started", "closed"]


async def test_too_few_events_in_time_are_named_in_the_error() -> None:
    source = Source("a", Event("b", event="update"), endless=True)
    with pytest.raises(TimeoutError) as raised:
        await read_events(EventStreamResponse(source), 3, timeout=0.2)
    assert str(raised.value) == (
        "2 of 3 events arrived within 0.2 s: [DecodedEvent(data='a', event='message', id=''), "
        "DecodedEvent(data='b', event='update', id='')]"
    )
    assert source.closed


async def test_time_is_bounded_by_the_callers_own_timeout_as_well() -> None:
    with pytest.raises(TimeoutError) as raised:
        async with asyncio.timeout(0.1):
            await read_events(EventStreamResponse(Source(endless=True)), 1)
    assert "events arrived" not in str(raised.value)


@pytest.mark.django_db(transaction=True)
async def test_events_of_the_stream_itself_are_read_where_they_are_asked_for() -> None:
    client = AsyncClient()
    message = await apublish("news", "hello")
    events = await read_events(await client.get("/events/news/?replay=1"), 3, control=True)
    assert [(event.event, event.id) for event in events] == [
        ("stream-checkpoint", str(message.position - 1)),
        ("message", str(message.position)),
        ("stream-checkpoint", str(message.position)),
    ]
    assert [event.event for event in await read_events(await client.get("/events/news/?replay=1"), 1)] == ["message"]


async def test_any_streaming_response_can_be_read() -> None:
    async def chunks() -> Any:
        yield b"data: a\r\n\r"
        yield b"\ndata: b\n\nda"
        yield b"ta: c\n\n"
        yield b"data: not finished"

    assert [event.data for event in await read_events(StreamingHttpResponse(chunks()), 9)] == ["a", "b", "c"]


async def test_events_are_iterated_as_they_come() -> None:
    response = EventStreamResponse(Source("a", "b", "c"))
    assert [event.data async for event in iterate_events(response)] == ["a", "b", "c"]
