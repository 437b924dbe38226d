"""Heartbeats while a stream waits for a read or a snapshot, and the order of the bytes that follow them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.test import override_settings

from streams import EventStreamResponse, NewMessage, apublish, apublish_many, log
from streams.delivery import subscriber
from streams.delivery.hub import Hub
from streams.delivery.reads import read_page
from streams.delivery.subscriber import Subscriber
from streams.delivery.window import Window
from streams.http.shutdown import reconnect_hint
from streams.protocol import sse
from streams.runtime import executor
from tests.delivery.support import STREAMS, Reader, fill, read_to_the_end

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def waits(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Event]:
    """Make reads of the log wait while this event is not set, and heartbeats frequent."""
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
    """Make the stream send a heartbeat while it waits for a read."""
    may_read.clear()
    await reader.read()
    assert reader.chunks[-1] == sse.HEARTBEAT


async def finish_step(reader: Reader, may_read: asyncio.Event) -> None:
    """Let the read finish before the client asks for the next chunk."""
    may_read.set()
    step = reader.stream._step
    assert step is not None
    await asyncio.wait([step], timeout=30)


@pytest.mark.parametrize("end", ["revoke", "stop"])
async def test_stopped_stream_sends_no_messages(waits: asyncio.Event, end: str) -> None:
    """The stream is stopped after a heartbeat, when the result of a read is ready but not sent yet."""
    await fill(600)
    reader = Reader("", 0)
    await reader.read_until(lambda: len(reader.messages()) == 250)
    await read_heartbeat(reader, waits)
    await finish_step(reader, waits)
    if end == "revoke":
        reader.stream.revoke()
    else:
        reader.stream.stop(reconnect_hint())
    await read_to_the_end(reader)
    assert len(reader.messages()) == 250
    assert b"retry: " in reader.chunks[-1]


async def test_checkpoint_precedes_live_messages(waits: asyncio.Event) -> None:
    """A new epoch with its fork at the cursor began during the read, so that the stream is live at once."""
    await fill(3)
    reader = Reader("", 0)
    await reader.read_until(lambda: len(reader.messages()) == 3)
    hub = Hub.running()
    assert hub is not None
    window, hub.position = hub.window, 4
    hub.window = Window(4, max_messages=1, max_bytes=1)  # the cursor is before it
    await read_heartbeat(reader, waits)
    hub.window, hub.position, hub.epochs = window, 3, log.Epochs()
    await finish_step(reader, waits)
    await apublish("news", "live")
    await reader.read_until(lambda: len(reader.messages()) == 4)
    reader.stream.stop(reconnect_hint())
    await read_to_the_end(reader)
    assert reader.chunks[-3:-1] == [sse.checkpoint(3), b"id: 4\ndata: live\n\n"]
    assert reader.decoder.last_event_id == "4"


async def test_quiet_stream_sends_heartbeats_between_reads(
    waits: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read takes less than HEARTBEAT_SECONDS, and the log grows beyond the window."""
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


async def test_snapshot_after_end_can_be_stopped(waits: asyncio.Event) -> None:
    await apublish("news", "the end", event="done")
    begun, ended = asyncio.Event(), asyncio.Event()

    async def snapshot() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    stream = Subscriber(["news"], snapshot=snapshot, final_events=["done"])
    assert await anext(stream) == await anext(stream) == sse.HEARTBEAT
    while not begun.is_set():  # the read before the snapshot can need more time
        assert await anext(stream) == sse.HEARTBEAT
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
