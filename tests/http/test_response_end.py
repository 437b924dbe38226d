"""The end of an EventStreamResponse: with its iterator, at a time limit, or after an exception."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from django.utils import timezone

from streams import EventStreamResponse
from tests.http.support import HEARTBEAT, SECRET, Items, body, decode, iterate, wait_forever


async def test_stream_ends_with_its_iterator() -> None:
    response = EventStreamResponse(iterate("a"))
    assert await body(response) == b":\ndata: a\n\n"
    assert await body(response) == b""


async def test_timeout_ends_silent_stream() -> None:
    items = Items("a")
    began = time.monotonic()
    sent = await body(EventStreamResponse(items, timeout=0.2))
    assert sent == b":\ndata: a\n\n"
    assert time.monotonic() - began >= 0.2


async def test_timeout_ends_busy_stream() -> None:
    """It ends between two events."""

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
async def test_earlier_limit_ends_the_stream(timeout: float, lives: float) -> None:
    deadline = timezone.now() + datetime.timedelta(seconds=lives)
    assert await body(EventStreamResponse(Items("a"), timeout=timeout, deadline=deadline)) == b":\ndata: a\n\n"


async def test_past_deadline_ends_stream_at_once() -> None:
    items = Items()
    chunks = aiter(EventStreamResponse(items, deadline=timezone.now() - datetime.timedelta(days=1)))
    async with contextlib.aclosing(chunks):
        assert b"".join([chunk async for chunk in chunks]) == HEARTBEAT
    assert items.closed == 1


@pytest.mark.parametrize("timeout", [0, -1])
async def test_timeout_must_be_above_zero(timeout: float) -> None:
    with pytest.raises(ValueError, match=f"timeout is a number of seconds above 0; got {timeout}"):
        EventStreamResponse(Items(), timeout=timeout)


async def test_deadline_must_be_aware() -> None:
    with pytest.raises(ValueError, match="deadline is an aware datetime"):
        EventStreamResponse(Items(), deadline=datetime.datetime(2026, 11, 22))


def fails_with(error: BaseException) -> Callable[[], Any]:
    async def fail() -> None:
        raise error

    return fail


async def test_exception_shows_no_details(caplog: Any) -> None:
    """The exception is logged, and the client gets an error event."""
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
    assert "in fail" in caplog.text  # the traceback shows the function that raised it


async def test_exception_before_first_item_is_reported(caplog: Any) -> None:
    [error] = decode(await body(EventStreamResponse(iterate(then=fails_with(LookupError(SECRET))))))
    assert error.event == "stream-error"
    assert SECRET in caplog.text


async def test_iterator_cancelled_from_within_ends_stream(caplog: Any) -> None:
    """An example is an iterator that awaits a task which other code has cancelled."""
    sent = await body(EventStreamResponse(iterate("before", then=fails_with(asyncio.CancelledError())), heartbeat=0.1))
    assert [event.event for event in decode(sent)] == ["message", "stream-error"]
    assert "in fail" in caplog.text


async def test_failure_within_event_sends_no_event(caplog: Any) -> None:
    sent = await body(EventStreamResponse(iterate(b"data: all of", then=fails_with(LookupError(SECRET)))))
    assert "message" not in [event.event for event in decode(sent)]
    assert "stream-error" in [event.event for event in decode(sent)]


async def test_failure_to_close_is_logged(caplog: Any) -> None:
    async def items() -> AsyncIterator[str]:
        try:
            yield "a"
            await wait_forever()
        finally:
            raise LookupError(SECRET)

    chunks = aiter(EventStreamResponse(items()))
    assert [await anext(chunks), await anext(chunks)] == [HEARTBEAT, b"data: a\n\n"]
    await chunks.aclose()
    assert SECRET in caplog.text
