"""Clients of EventStreamView, and the events that they expect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from unittest import mock
from urllib.parse import unquote_to_bytes

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.test import AsyncClient, override_settings

from streams import NewMessage, apublish_many
from streams.direct.application import with_direct_streams
from streams.log import retention
from streams.private import servers
from streams.protocol.sse import DecodedEvent, EventStreamDecoder

SECONDS = 20.0  # a generous bound for steps that take no time
PUBLIC = {"PUBLIC_CHANNELS": ["*"]}
SKIPPED = ["project.middleware.StaticFiles"]


class Opened:
    """A response, and its body as it arrives."""

    def __init__(self, status: int, headers: dict[str, str], chunks: AsyncIterator[bytes]) -> None:
        self.status = status
        self.headers = headers
        self.raw = b""
        self.retry: int | None = None
        self._chunks = chunks
        self._decoder = EventStreamDecoder()
        self._events: list[DecodedEvent] = []

    async def chunk(self) -> bytes:
        """Return the next chunk of the body, or b"" at its end."""
        async with asyncio.timeout(SECONDS):
            chunk = await anext(self._chunks, b"")
        self.raw += chunk
        self._events += self._decoder.feed(chunk)
        self.retry = self._decoder.retry_milliseconds
        return chunk

    async def take(self, count: int) -> list[tuple[str, str, str]]:
        """Return the next events, control events included, as (type, id, data); fewer if the stream ends first."""
        async with asyncio.timeout(SECONDS):  # over all chunks, because a stream can send heartbeats alone
            while len(self._events) < count and await self.chunk():
                pass
        taken, self._events = self._events[:count], self._events[count:]
        return [(event.event, event.id, event.data) for event in taken]

    async def rest(self) -> bytes:
        async with asyncio.timeout(SECONDS):
            while await self.chunk():
                pass
        return self.raw

    async def json(self) -> Any:
        return json.loads(await self.rest())


@asynccontextmanager
async def by_asgi(
    url: str, *, method: str = "GET", headers: dict[str, str] | None = None, app: Any = None
) -> AsyncIterator[Opened]:
    """Send a request to Django's ASGI handler, or to `app`, as a server does. The client leaves at the block's end."""
    raw_path, _, query = url.partition("?")
    sent = {"host": "testserver", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(raw_path).decode(),
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
    }
    requests = iter([{"type": "http.request", "body": b"", "more_body": False}])
    gone = asyncio.Event()
    sending: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive() -> dict[str, Any]:
        if (request := next(requests, None)) is not None:
            return request
        await gone.wait()
        return {"type": "http.disconnect"}

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            message = await sending.get()
            assert message["type"] == "http.response.body"
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return

    serving = asyncio.create_task((app or ASGIHandler())(scope, receive, sending.put))
    try:
        async with asyncio.timeout(SECONDS):
            start = await sending.get()
        assert start["type"] == "http.response.start"
        answered = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
        yield Opened(start["status"], answered, chunks())
    finally:
        gone.set()
        async with asyncio.timeout(SECONDS):
            await serving


@asynccontextmanager
async def by_direct(url: str, **request: Any) -> AsyncIterator[Opened]:
    """Send a request to the direct way, whose `send` any task can call."""
    with mock.patch.object(servers, "KNOWN", ("asyncio.",)):
        async with by_asgi(url, app=direct_application(), **request) as opened:
            yield opened


def direct_application() -> Any:
    return with_direct_streams(ASGIHandler(), SKIPPED)  # type: ignore[arg-type]


@asynccontextmanager
async def by_client(url: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> AsyncIterator[Opened]:
    """Send a request with Django's AsyncClient."""
    response = await AsyncClient().generic(method, url, headers=headers)
    sent = {name.lower(): value for name, value in response.headers.items()}
    if response.streaming:
        try:
            yield Opened(response.status_code, sent, aiter(response))
        finally:
            await response.aclose()
    else:

        async def content() -> AsyncIterator[bytes]:
            yield response.content

        yield Opened(response.status_code, sent, content())


Opening = Callable[..., AbstractAsyncContextManager[Opened]]


async def fill(*channels: str) -> None:
    """Publish one message to each of the channels, in order. Its data is the channel and the number."""
    await apublish_many([NewMessage(channel, f"{channel} {at}") for at, channel in enumerate(channels, 1)])


async def prune(**keep: Any) -> None:
    with override_settings(STREAMS={**PUBLIC, **keep}):
        await sync_to_async(retention.prune)()


def checkpoint(position: int) -> tuple[str, str, str]:
    return "stream-checkpoint", str(position), "{}"


def message(position: int, data: str) -> tuple[str, str, str]:
    return "message", str(position), data


def reset(reason: str, requested: str, *, id: int, earliest: int | None, head: int) -> tuple[str, str, Any]:
    return "stream-reset", str(id), {"reason": reason, "requested": requested, "earliest": earliest, "head": head}


async def take_reset(stream: Opened) -> tuple[str, str, Any]:
    [(event, id, data)] = await stream.take(1)
    return event, id, json.loads(data)


async def refusal(opened: Opened) -> tuple[int, str, str]:
    """Return the status, code and message of an error, and check its shape."""
    body = await opened.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["code", "message"]
    assert opened.headers["content-type"] == "application/json"
    assert opened.headers["cache-control"] == "no-store", "a cached error would outlive its cause"
    return opened.status, body["error"]["code"], body["error"]["message"]


def without_access_rules(seen: list[str]) -> list[str]:
    """Remove the query for the access rules, which is cached outside of tests, and those of periodic tasks."""
    others = ("streams_channelsettings", "streams_broadcast", "streams_node")
    return [sql for sql in seen if not any(table in sql for table in others)]
