"""The content that EventStreamResponse sends, and the items that it refuses. See tests/system/servers for servers."""

from __future__ import annotations

import asyncio
import datetime
import decimal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.http import HttpRequest
from django.middleware.gzip import GZipMiddleware

from streams import Event, EventStreamResponse
from tests.http.support import HEARTBEAT, Items, body, decode, iterate, wait_forever


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
async def test_item_is_sent_as_event(item: Any, sent: bytes) -> None:
    assert await body(EventStreamResponse(iterate(item))) == HEARTBEAT + sent


async def test_items_are_sent_in_order() -> None:
    """Each item is a separate chunk."""
    chunks = [chunk async for chunk in EventStreamResponse(iterate("a", "b", "c"))]
    assert chunks == [HEARTBEAT, b"data: a\n\n", b"data: b\n\n", b"data: c\n\n"]


async def test_first_bytes_precede_first_item() -> None:
    chunks = aiter(EventStreamResponse(iterate(then=wait_forever)))
    async with asyncio.timeout(10):
        assert await anext(chunks) == HEARTBEAT
    await chunks.aclose()


async def test_any_async_iterable_is_accepted() -> None:
    class Iterable:
        def __aiter__(self) -> AsyncIterator[str]:
            return iterate("a", "b")

    assert await body(EventStreamResponse(Iterable())) == b":\ndata: a\n\ndata: b\n\n"


async def test_next_item_waits_for_the_reader() -> None:
    produced = []

    async def items() -> AsyncIterator[int]:
        for n in range(5):
            produced.append(n)
            yield n

    chunks = aiter(EventStreamResponse(items()))
    for _ in range(3):
        await anext(chunks)
    await asyncio.sleep(0.05)
    assert produced == [0, 1]
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
async def test_unsendable_item_ends_stream_with_error(item: Any, caplog: Any) -> None:
    sent = await body(EventStreamResponse(iterate("before", item, "after")))
    before, error = decode(sent)
    assert before.data == "before"
    assert error.event == "stream-error"
    assert b"after" not in sent
    assert "Error" in caplog.text or "Invalid" in caplog.text


async def test_headers() -> None:
    response = EventStreamResponse(iterate())
    assert dict(response.items()) == {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
    }
    assert response.status_code == 200


async def test_view_adds_headers_and_status() -> None:
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


async def test_gzip_middleware_skips_the_stream() -> None:
    request = HttpRequest()
    request.META["HTTP_ACCEPT_ENCODING"] = "gzip, br"
    response = GZipMiddleware(lambda _: EventStreamResponse(iterate("x" * 1000)))(request)
    assert await body(response) == HEARTBEAT + b"data: " + b"x" * 1000 + b"\n\n"
    assert "Content-Encoding" not in dict(response.items())


async def test_middleware_that_reads_content_gets_the_remedy() -> None:
    with pytest.raises(AttributeError, match="Use `streaming_content` instead"):
        EventStreamResponse(iterate()).content  # noqa: B018


async def test_middleware_can_wrap_the_content() -> None:
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
def test_other_iterables_are_refused(items: Any, named: str) -> None:
    with pytest.raises(TypeError, match=f"takes an async iterator; got {named}.*async def"):
        EventStreamResponse(items)


async def test_response_refuses_sync_iteration() -> None:
    response = EventStreamResponse(Items("a"))
    with pytest.raises(RuntimeError, match=r"Event streams need ASGI.*daphne"):
        list(response)
