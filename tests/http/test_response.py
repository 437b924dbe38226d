"""EventStreamResponse over any async iterator, without a server: see servers/test_response_on_servers.py for those."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import gc
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest
from django.http import HttpRequest
from django.middleware.gzip import GZipMiddleware
from django.utils import timezone

from streams import Event, EventStreamResponse
from streams.protocol.sse import DecodedEvent, EventStreamDecoder

HEARTBEAT = b":\n"
SECRET = "the password is hunter2"


async def iterate(*items: Any, then: Callable[[], Any] | None = None) -> AsyncGenerator[Any, None]:
    for item in items:
        yield item
    if then is not None:
        await then()


async def for_ever() -> None:
    await asyncio.Event().wait()


async def body(response: EventStreamResponse, *, within: float = 10.0) -> bytes:
    """All that the response sends."""
    async with asyncio.timeout(within):
        return b"".join([chunk async for chunk in response])


def decode(content: bytes) -> list[DecodedEvent]:
    return EventStreamDecoder().feed(content)


class Items:
    """An async iterator that is no generator, and notes when it was closed."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)
        self.closed = 0

    def __aiter__(self) -> Items:
        return self

    async def __anext__(self) -> Any:
        if not self.items:
            await for_ever()
        return self.items.pop(0)

    async def aclose(self) -> None:
        self.closed += 1


async def happens(condition: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


# --- What is sent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "sent"),
    [
        ("hello", b"data: hello\n\n"),
        ("", b"data: \n\n"),
        (" leading", b"data:  leading\n\n"),
        ("two\nlines", b"data: two\ndata: lines\n\n"),
        ("a\r\nb\rc\n", b"data: a\ndata: b\ndata: c\ndata: \n\n"),
        ("data: x\n\nid: 3", b"data: data: x\ndata: \ndata: id: 3\n\n"),
        ("caf\u00e9 \U0001f600 \u2028", "data: caf\u00e9 \U0001f600 \u2028\n\n".encode()),
        ({"a": [1, None, True], "\u00e9": "x\ny"}, 'data: {"a":[1,null,true],"\u00e9":"x\\ny"}\n\n'.encode()),
        ([1, 2], b"data: [1,2]\n\n"),
        ((1, 2), b"data: [1,2]\n\n"),
        (7, b"data: 7\n\n"),
        (1.5, b"data: 1.5\n\n"),
        (None, b"data: null\n\n"),
        (decimal.Decimal("1.10"), b'data: "1.10"\n\n'),
        (datetime.date(2026, 11, 22), b'data: "2026-11-22"\n\n'),
        (b"event: raw\ndata: as it is\n\n", b"event: raw\ndata: as it is\n\n"),
        (b": a comment\n", b": a comment\n"),
        (Event("x"), b"data: x\n\n"),
        (Event({"a": 1}, event="update"), b'event: update\ndata: {"a":1}\n\n'),
        (Event("x", id=7), b"id: 7\ndata: x\n\n"),
        (Event("x", id=0), b"id: 0\ndata: x\n\n"),
        (Event("x", id=""), b"id: \ndata: x\n\n"),
        (Event("x", retry=0), b"retry: 0\ndata: x\n\n"),
        (
            Event("a\nb", event="update", id="k-7", retry=2500),
            b"retry: 2500\nevent: update\nid: k-7\ndata: a\ndata: b\n\n",
        ),
    ],
    ids=repr,
)
async def test_item_is_sent_as_an_event(item: Any, sent: bytes) -> None:
    assert await body(EventStreamResponse(iterate(item))) == HEARTBEAT + sent


async def test_items_are_sent_in_order_one_chunk_each() -> None:
    chunks = [chunk async for chunk in EventStreamResponse(iterate("a", "b", "c"))]
    assert chunks == [HEARTBEAT, b"data: a\n\n", b"data: b\n\n", b"data: c\n\n"]


async def test_first_bytes_are_sent_before_there_is_an_item() -> None:
    chunks = aiter(EventStreamResponse(iterate(then=for_ever)))
    async with asyncio.timeout(10):
        assert await anext(chunks) == HEARTBEAT
    await chunks.aclose()


async def test_any_async_iterable_will_do() -> None:
    class Iterable:
        def __aiter__(self) -> AsyncIterator[str]:
            return iterate("a", "b")

    assert await body(EventStreamResponse(Iterable())) == b":\ndata: a\n\ndata: b\n\n"


async def test_item_is_asked_for_only_when_the_one_before_was_taken() -> None:
    asked = []

    async def items() -> AsyncIterator[int]:
        for n in range(5):
            asked.append(n)
            yield n

    chunks = aiter(EventStreamResponse(items()))
    for _ in range(3):
        await anext(chunks)
    await asyncio.sleep(0.05)
    assert asked == [0, 1]
    await chunks.aclose()


@pytest.mark.parametrize(
    "item",
    [
        ...,
        {"a": ...},
        float("nan"),
        "\ud800",
        Event("x", event="a\nb"),
        Event("x", event="\ud800"),
        Event("x", id="a\rb"),
        Event("x", id="a\0b"),
        Event("x", retry=-1),
        Event("x", retry=1.5),  # type: ignore[arg-type]
    ],
    ids=repr,
)
async def test_item_that_cannot_be_sent_ends_the_stream_with_an_error(item: Any, caplog: Any) -> None:
    sent = await body(EventStreamResponse(iterate("before", item, "after")))
    before, error = decode(sent)
    assert before.data == "before"
    assert error.event == "stream-error"
    assert b"after" not in sent
    assert "Error" in caplog.text or "Invalid" in caplog.text


# --- Headers ----------------------------------------------------------------------------------------------------------


async def test_headers() -> None:
    response = EventStreamResponse(iterate())
    assert dict(response.items()) == {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
    }
    assert response.status_code == 200


async def test_headers_and_status_of_the_view_are_sent_as_well() -> None:
    response = EventStreamResponse(
        iterate(), status=202, headers={"X-Request-Id": "7", "Cache-Control": "private", "Content-Type": "text/html"}
    )
    assert response.status_code == 202
    assert dict(response.items()) == {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "private",
        "X-Accel-Buffering": "no",
        "X-Request-Id": "7",
    }


async def test_gzip_middleware_leaves_the_stream_alone() -> None:
    request = HttpRequest()
    request.META["HTTP_ACCEPT_ENCODING"] = "gzip, br"
    response = GZipMiddleware(lambda _: EventStreamResponse(iterate("x" * 1000)))(request)
    assert await body(response) == HEARTBEAT + b"data: " + b"x" * 1000 + b"\n\n"
    assert "Content-Encoding" not in dict(response.items())


# --- Heartbeats -------------------------------------------------------------------------------------------------------


async def test_heartbeats_are_sent_while_the_iterator_is_silent() -> None:
    pause = asyncio.Event()
    chunks = aiter(EventStreamResponse(iterate("a", then=pause.wait), heartbeat=0.01))
    async with asyncio.timeout(10):
        got = [await anext(chunks) for _ in range(6)]
        assert got == [HEARTBEAT, b"data: a\n\n", *[HEARTBEAT] * 4]
        pause.set()
        assert not [chunk async for chunk in chunks if chunk != HEARTBEAT]


async def test_no_item_is_lost_or_repeated_between_heartbeats() -> None:
    async def items() -> AsyncIterator[int]:
        for n in range(50):
            await asyncio.sleep(n % 7 / 1000)
            yield n

    sent = await body(EventStreamResponse(items(), heartbeat=0.002))
    assert [event.data for event in decode(sent)] == [str(n) for n in range(50)]


async def test_busy_stream_needs_no_heartbeats() -> None:
    async def items() -> AsyncIterator[int]:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            yield 1
            await asyncio.sleep(0.001)

    chunks = [chunk async for chunk in EventStreamResponse(items(), heartbeat=0.4)]
    assert chunks.count(HEARTBEAT) == 1  # the stream's first bytes


@pytest.mark.parametrize(
    ("pieces", "data"),
    [
        ([b"data: hel", b"lo\n\n"], "hello"),
        ([b"da", b"ta: hello\n\n"], "hello"),
        ([b"data: hello", b"\n", b"\n"], "hello"),
        ([b"data: hello\r", b"\n\r", b"\n"], "hello"),
        ([b"data: one\r", b"\ndata: two\r\n\r\n"], "one\ntwo"),
        ([b"data: mixed\n", b"\r\n"], "mixed"),
        (["data: caf\u00e9\n\n".encode()[:10], "data: caf\u00e9\n\n".encode()[10:]], "caf\u00e9"),
    ],
    ids=repr,
)
async def test_heartbeat_does_not_land_within_an_event_that_comes_in_pieces(pieces: list[bytes], data: str) -> None:
    async def items() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(0.1)

    sent = await body(EventStreamResponse(items(), heartbeat=0.02))
    assert [event.data for event in decode(sent)] == [data]
    event = b"".join(pieces)
    assert sent.count(event) == 1
    assert set(sent.replace(event, b"").split(HEARTBEAT)) == {b""}
    assert sent.count(HEARTBEAT) > 1


async def test_iterators_own_comments_do_not_keep_heartbeats_away() -> None:
    async def items() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        yield b": still here\n"
        await asyncio.sleep(1)

    sent = await body(EventStreamResponse(items(), heartbeat=0.02))
    assert sent.partition(b": still here\n")[2].count(HEARTBEAT) > 1


@pytest.mark.parametrize("heartbeat", [0, -1])
async def test_heartbeat_is_a_number_above_zero(heartbeat: float) -> None:
    with pytest.raises(ValueError, match=f"heartbeat.*above 0.*{heartbeat}"):
        EventStreamResponse(Items(), heartbeat=heartbeat)


# --- The end ----------------------------------------------------------------------------------------------------------


async def test_stream_ends_with_its_iterator() -> None:
    response = EventStreamResponse(iterate("a"))
    assert await body(response) == b":\ndata: a\n\n"
    assert await body(response) == b""


async def test_timeout_ends_a_silent_stream() -> None:
    items = Items("a")
    began = time.monotonic()
    sent = await body(EventStreamResponse(items, timeout=0.2))
    assert sent == b":\ndata: a\n\n"
    assert time.monotonic() - began >= 0.2


async def test_timeout_ends_a_busy_stream_between_events() -> None:
    async def items() -> AsyncIterator[int]:
        n = 0
        while True:
            yield n
            n += 1
            await asyncio.sleep(0)

    sent = await body(EventStreamResponse(items(), timeout=0.1))
    events = decode(sent)
    assert [event.data for event in events] == [str(n) for n in range(len(events))]
    assert len(events) > 1
    assert sent.endswith(b"\n\n")


async def test_deadline_ends_the_stream() -> None:
    deadline = timezone.now() + datetime.timedelta(seconds=0.2)
    await body(EventStreamResponse(Items("a"), deadline=deadline))
    assert timezone.now() >= deadline


@pytest.mark.parametrize(("timeout", "lives"), [(0.2, 60), (60, 0.2)])
async def test_what_comes_first_of_timeout_and_deadline_ends_the_stream(timeout: float, lives: float) -> None:
    deadline = timezone.now() + datetime.timedelta(seconds=lives)
    assert await body(EventStreamResponse(Items("a"), timeout=timeout, deadline=deadline)) == b":\ndata: a\n\n"


async def test_deadline_that_has_passed_ends_the_stream_at_once() -> None:
    items = Items()
    chunks = aiter(EventStreamResponse(items, deadline=timezone.now() - datetime.timedelta(days=1)))
    async with contextlib.aclosing(chunks):
        assert b"".join([chunk async for chunk in chunks]) == HEARTBEAT
    assert items.closed == 1


@pytest.mark.parametrize("timeout", [0, -1])
async def test_timeout_is_a_number_above_zero(timeout: float) -> None:
    with pytest.raises(ValueError, match=f"timeout is a number of seconds above 0; got {timeout}"):
        EventStreamResponse(Items(), timeout=timeout)


async def test_deadline_is_aware() -> None:
    with pytest.raises(ValueError, match="deadline is an aware datetime"):
        EventStreamResponse(Items(), deadline=datetime.datetime(2026, 11, 22))


# --- Failures ---------------------------------------------------------------------------------------------------------


def fails_with(error: BaseException) -> Callable[[], Any]:
    async def fail() -> None:
        raise error

    return fail


async def test_exception_ends_the_stream_with_an_error_that_gives_nothing_away(caplog: Any) -> None:
    with caplog.at_level(logging.ERROR, "streams"):
        sent = await body(EventStreamResponse(iterate("before", then=fails_with(LookupError(SECRET)))))
    before, error = decode(sent)
    assert (before.data, before.event) == ("before", "message")
    assert error.event == "stream-error"
    assert error.id == ""
    assert b"LookupError" not in sent
    assert b"hunter2" not in sent
    [record] = [record for record in caplog.records if record.name == "streams"]
    assert record.levelname == "ERROR"
    assert record.exc_info[1].args == (SECRET,)
    assert "in fail" in caplog.text  # the stack leads to where it was raised


async def test_exception_before_the_first_item_is_told_as_well(caplog: Any) -> None:
    [error] = decode(await body(EventStreamResponse(iterate(then=fails_with(LookupError(SECRET))))))
    assert error.event == "stream-error"
    assert SECRET in caplog.text


async def test_iterator_that_was_cancelled_from_within_ends_the_stream(caplog: Any) -> None:
    """As where it awaits a task that somebody else has cancelled."""
    sent = await body(EventStreamResponse(iterate("before", then=fails_with(asyncio.CancelledError())), heartbeat=0.1))
    assert [event.event for event in decode(sent)] == ["message", "stream-error"]
    assert "in fail" in caplog.text


async def test_failure_within_an_event_that_comes_in_pieces_makes_no_event_of_the_piece(caplog: Any) -> None:
    sent = await body(EventStreamResponse(iterate(b"data: all of", then=fails_with(LookupError(SECRET)))))
    assert "message" not in [event.event for event in decode(sent)]
    assert "stream-error" in [event.event for event in decode(sent)]


async def test_failure_to_close_is_logged_and_nothing_else(caplog: Any) -> None:
    async def items() -> AsyncIterator[str]:
        try:
            yield "a"
            await for_ever()
        finally:
            raise LookupError(SECRET)

    chunks = aiter(EventStreamResponse(items()))
    assert [await anext(chunks), await anext(chunks)] == [HEARTBEAT, b"data: a\n\n"]
    await chunks.aclose()
    assert SECRET in caplog.text


# --- Closing ----------------------------------------------------------------------------------------------------------


class Notes(list[str]):
    """What an iterator went through."""

    async def items(self) -> AsyncGenerator[str, None]:
        try:
            yield "a"
            await for_ever()
        finally:
            await asyncio.sleep(0)  # cleaning up may wait
            self.append("closed")


@pytest.mark.parametrize("taken", [2, 3])
async def test_closed_stream_closes_its_iterator(taken: int) -> None:
    """Between two items, and while it is silent."""
    notes = Notes()
    chunks = aiter(EventStreamResponse(notes.items(), heartbeat=0.01))
    for _ in range(taken):
        await anext(chunks)
    await chunks.aclose()
    assert notes == ["closed"]
    await chunks.aclose()
    assert notes == ["closed"]


async def test_cancelled_reader_closes_the_iterator() -> None:
    notes = Notes()

    async def read() -> None:
        async with contextlib.aclosing(aiter(EventStreamResponse(notes.items()))) as chunks:
            async for _ in chunks:
                pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert notes == ["closed"]


async def test_stream_that_ended_in_time_closes_its_iterator() -> None:
    notes = Notes()
    async with contextlib.aclosing(aiter(EventStreamResponse(notes.items(), timeout=0.05))) as chunks:
        assert [chunk async for chunk in chunks] == [HEARTBEAT, b"data: a\n\n"]
    assert notes == ["closed"]


async def test_stream_that_was_never_begun_closes_an_iterator_that_can_be_closed() -> None:
    items = Items()
    await aiter(EventStreamResponse(items)).aclose()
    assert items.closed == 1


@pytest.mark.parametrize("taken", [0, 1, 2])
async def test_dropped_response_closes_its_iterator(taken: int) -> None:
    """As where a client leaves while a middleware still works: then nobody closes anything."""
    items = Items("a")
    response = EventStreamResponse(items)
    chunks = aiter(response)
    for _ in range(taken):
        await anext(chunks)
    del response, chunks
    gc.collect()
    await happens(lambda: items.closed == 1)


async def test_dropped_response_that_middleware_has_wrapped_closes_its_iterator_without_the_garbage_collector() -> None:
    async def wrapped(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in content:
            yield chunk

    items = Items("a")
    response = EventStreamResponse(items)
    for _ in range(2):
        response.streaming_content = wrapped(response.streaming_content)
    gc.disable()
    try:
        del response
        await happens(lambda: items.closed == 1)
    finally:
        gc.enable()


async def test_middleware_may_put_any_content_around_the_streams() -> None:
    async def wrapped(content: AsyncIterator[bytes]) -> AsyncIterator[object]:
        yield ": été\n"
        async for chunk in content:
            yield memoryview(chunk)

    response = EventStreamResponse(Items("a"))
    response.streaming_content = wrapped(response.streaming_content)
    chunks = aiter(response)
    taken = [await anext(chunks) for _ in range(3)]
    assert taken == [": été\n".encode(), HEARTBEAT, b"data: a\n\n"]
    await response.aclose()


@pytest.mark.parametrize("taken", [0, 1, 2])
async def test_closed_response_closes_its_iterator(taken: int) -> None:
    """Django calls response.close() last of all, from another thread, also where a middleware has lost the iterator."""
    items = Items("a")
    response = EventStreamResponse(items)
    chunks = aiter(response)
    for _ in range(taken):
        await anext(chunks)
    await asyncio.to_thread(response.close)
    await happens(lambda: items.closed == 1)


async def test_iterator_that_ignores_cancellation_is_left_to_itself_and_named(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("streams.http.source.CLOSE_SECONDS", 0.2)
    let_go = asyncio.Event()

    async def stubborn() -> AsyncIterator[str]:
        yield "a"
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    chunks = aiter(EventStreamResponse(stubborn(), heartbeat=0.01))
    for _ in range(3):
        await anext(chunks)
    async with asyncio.timeout(10):
        await chunks.aclose()
    assert "stubborn" in caplog.text
    let_go.set()


async def test_iterator_runs_in_one_task() -> None:
    tasks = []

    async def items() -> AsyncIterator[int]:
        try:
            for n in range(3):
                tasks.append(asyncio.current_task())
                yield n
            await for_ever()
        finally:
            tasks.append(asyncio.current_task())

    chunks = aiter(EventStreamResponse(items(), heartbeat=0.01))
    for _ in range(8):
        # As with a server that asks for each chunk in another task.
        await asyncio.create_task(take(chunks))
    await chunks.aclose()
    assert len(tasks) == 4
    assert len(set(tasks)) == 1


async def take(chunks: AsyncIterator[bytes]) -> bytes:
    return await anext(chunks)


async def test_timeouts_may_be_open_over_several_items() -> None:
    async def items() -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(0.1):
                yield "in time"
                await for_ever()
        except TimeoutError:
            yield "timed out"

    sent = await body(EventStreamResponse(items(), heartbeat=0.02))
    assert [event.data for event in decode(sent)] == ["in time", "timed out"]


# --- What is refused --------------------------------------------------------------------------------------------------


def sync_generator() -> Any:
    yield "a"


@pytest.mark.parametrize(
    ("items", "named"),
    [
        (sync_generator(), "generator"),
        (["a"], "list"),
        ("text", "str"),
        (iterate, "function"),  # not called
        (None, "NoneType"),
    ],
    ids=["sync generator", "list", "str", "function", "None"],
)
def test_what_is_no_async_iterator_is_refused(items: Any, named: str) -> None:
    with pytest.raises(TypeError, match=f"takes an async iterator; got {named}.*async def"):
        EventStreamResponse(items)


async def test_response_is_not_iterated_by_sync_code() -> None:
    response = EventStreamResponse(Items("a"))
    with pytest.raises(RuntimeError, match=r"Event streams need ASGI.*daphne"):
        list(response)
