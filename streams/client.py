"""Read event streams in Python: an EventSource, sync and async, for scripts, workers and notebooks.

    from streams.client import EventSource

    with EventSource("https://example.com/events/", channels=["news"], token=token) as source:
        for event in source:
            print(event.id, event.event, event.json())

It needs no Django settings. It sends requests with httpx2 or httpx: `pip install "django-sse-streams[client]"`. Within
the site's own process, use `streams.subscribe()` instead, which needs no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from inspect import isawaitable
from typing import Any, Self

from streams.http.event_source import BaseEventSource, wake
from streams.http.reconnection import missed
from streams.protocol.sse import DecodedEvent

__all__ = ["AsyncEventSource", "DecodedEvent", "EventSource"]

# The limit of browsers (Fetch standard, "HTTP-redirect fetch").
MAX_REDIRECTS = 20

# How much of an error's body is read, and for how long.
MAX_ERROR_BYTES = 65_536
MAX_ERROR_SECONDS = 5.0


class EventSource(BaseEventSource):
    """An event stream of a server, as an iterator of its events. It reconnects by itself, as a browser's does.

    After an error, a clean end, or a status that passes (408, 425, 429 and from 500), it opens the stream again with
    the id of the last event in `Last-Event-ID`, so that a stream of Streams loses and repeats nothing. It waits for as
    long as the server asks for (`retry:`, `Retry-After`), and longer after each failure. The parsing and the handling
    of the answers follow the WHATWG's HTML standard, section 9.2.

    Args:
        url: the stream's address, such as `https://example.com/events/news/`.
        channels: names to add to the URL as `?channel=…`.
        last_event_id: the cursor from which to go on. By default, the stream starts with new messages.
        replay: how many of the newest messages come first, if there is no cursor.
        token: a signed token, or a function that returns one. It is sent as `Authorization: Bearer …`. The function is
            called before the first request, and once more after each 401 or 403. AsyncEventSource also awaits it.
        headers: other headers to send.
        client: your own `Client` of httpx2 or httpx (for AsyncEventSource, an `AsyncClient`), which stays open. By
            default the source has its own.
        on_reset: called with an EventsMissed if messages can have been missed; the iteration then goes on.
            AsyncEventSource also awaits it. Without it, the iteration raises that exception.
        timeout_seconds: after so many seconds without a byte the connection is dead, and is opened again. Use several
            times the server's HEARTBEAT_SECONDS, which is 15 by default.
        retry_seconds: how long to wait before reconnecting, until the server sends `retry:`.
        max_attempts: how many attempts in a row can fail before StreamUnavailable is raised. None: any number.
        max_event_characters: the largest event that is accepted, so that a server cannot fill the memory.

    The iteration returns DecodedEvent objects with `id`, `event`, `data` and `json()`. A `stream-snapshot` event is one
    of them. Checkpoints are not: they only move `last_event_id`. A `stream-error` is logged, and the source reconnects.

    The iteration ends when the server answers 204, or after `close()`. You can leave it, and iterate again: it goes on
    with the next event, also after an exception.

    Raises:
        StreamRefused: the server refuses the stream permanently.
        EventsMissed: messages can have been missed, and there is no `on_reset`.
        EventTooLarge: an event has more than `max_event_characters`.
        StreamUnavailable: `max_attempts` attempts in a row have failed.
        ImportError: neither httpx2 nor httpx is installed.

    Iterate it in one thread at a time. `close()` can be called from any thread.
    """

    client_class = "Client"

    def _prepare(self) -> None:
        self._closed = threading.Event()
        self._lock = threading.RLock()  # held by the thread that iterates
        self._connection: Any = None  # the network stream of the request, if it is known and not shared
        self._extensions["trace"] = self._trace

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> DecodedEvent:
        try:
            with self._lock:
                return self._next()
        finally:
            if self._closed.is_set():
                self._dispose()

    def close(self) -> None:
        """Close the connection and end the iteration, also one that waits in another thread."""
        self._closed.set()
        if (connection := self._connection) is not None:
            wake(connection)
        self._dispose()

    def _next(self) -> DecodedEvent:
        state = self._state
        while not self._closed.is_set():
            if (event := state.take()) is not None:
                if event.event != "stream-reset":
                    return event
                if self._on_reset is None:
                    raise missed(event)
                self._on_reset(missed(event))
            elif state.has_ended:
                self._disconnect()
                break
            elif (seconds := self._read_on()) is not None:
                self._closed.wait(seconds)
        raise StopIteration

    def _read_on(self) -> float | None:
        """Connect, or read the next bytes. Return after how many seconds to try again, if this has failed."""
        try:
            if self._response is None:
                self._connect()
                return None
            self._state.check_size()
            if (chunk := next(self._chunks, None)) is not None:
                self._state.feed(chunk)
                return None
            self._disconnect()
            return self._state.wait_seconds()
        except BaseException as error:
            self._disconnect()
            if isinstance(error, Exception) and self._closed.is_set():
                return None
            if not self._passes(error):
                raise
            return self._state.wait_seconds(error)

    def _connect(self) -> None:
        state = self._state
        if state.token is None and self._get_token is not None:
            state.set_token(self._get_token())
        request = self._request()
        response = self._send(request)
        for _ in range(MAX_REDIRECTS):
            if (request := response.next_request) is None:
                break
            response.close()  # without its body, which can have any size
            # The library has removed the credentials if the origin is another one. auth=None: it adds no others.
            response = self._send(request, auth=None)
        self._response, self._chunks = response, response.iter_raw()
        if not state.opens(response.status_code, response.headers):
            body = self._read_error()
            self._disconnect()
            state.refuse(response.status_code, response.headers, body)

    def _send(self, request: Any, **options: Any) -> Any:
        self._connection = None  # other users of the client can have it now
        response = self._client.send(request, stream=True, follow_redirects=False, **options)
        if response.http_version.startswith("HTTP/1"):
            self._connection = response.extensions.get("network_stream")
        return response

    def _trace(self, name: str, info: dict[str, Any]) -> None:
        """Learn the network stream before the response's head arrives: called by the library at each step."""
        if name in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._connection = info["return_value"]
            if self._closed.is_set():
                wake(self._connection)
        elif name.startswith("http2."):
            self._connection = None  # requests share it: the thread notices at the next bytes, such as a heartbeat

    def _read_error(self) -> bytes:
        body, until = b"", time.monotonic() + MAX_ERROR_SECONDS
        with contextlib.suppress(self._library.TransportError):
            for chunk in self._chunks:
                body += chunk
                if len(body) >= MAX_ERROR_BYTES or time.monotonic() >= until:
                    break
        return body

    def _disconnect(self) -> None:
        response, self._response = self._response, None
        self._connection = None
        if response is not None:
            with contextlib.suppress(self._library.TransportError):
                response.close()

    def _dispose(self) -> None:
        """Close everything, unless another thread is iterating: it does this when it notices."""
        if self._lock.acquire(blocking=False):
            try:
                self._disconnect()
                if self._owns_client and self._client is not None:
                    self._client.close()
            finally:
                self._lock.release()


class AsyncEventSource(BaseEventSource):
    """An event stream of a server, as an async iterator of its events. See EventSource.

        async with AsyncEventSource("https://example.com/events/news/", last_event_id="41") as source:
            async for event in source:
                ...

    It needs asyncio. If the task that iterates is cancelled, the connection is closed at once.
    """

    client_class = "AsyncClient"

    def _prepare(self) -> None:
        self._is_closed = False
        self._scope: asyncio.Timeout | None = None  # while a task iterates

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> DecodedEvent:
        if self._scope is not None:
            raise RuntimeError("An event source is iterated in one task at a time; make one for each task.")
        try:
            async with asyncio.timeout(None) as self._scope:
                return await self._next()
        except TimeoutError:
            if not self._is_closed:
                raise
            raise StopAsyncIteration from None
        finally:
            self._scope = None
            if self._is_closed:
                await self._dispose()

    async def aclose(self) -> None:
        """Close the connection and end the iteration, also one that waits in another task."""
        self._is_closed = True
        if self._scope is None:
            await self._dispose()
        elif not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def _next(self) -> DecodedEvent:
        state = self._state
        while not self._is_closed:
            if (event := state.take()) is not None:
                if event.event != "stream-reset":
                    return event
                if self._on_reset is None:
                    raise missed(event)
                await _awaited(self._on_reset(missed(event)))
            elif state.has_ended:
                await self._disconnect()
                break
            elif (seconds := await self._read_on()) is not None:
                await asyncio.sleep(seconds)
        raise StopAsyncIteration

    async def _read_on(self) -> float | None:
        try:
            if self._response is None:
                await self._connect()
                return None
            self._state.check_size()
            if (chunk := await anext(self._chunks, None)) is not None:
                self._state.feed(chunk)
                return None
            await self._disconnect()
            return self._state.wait_seconds()
        except BaseException as error:
            await self._disconnect()
            if not self._passes(error):
                raise
            return self._state.wait_seconds(error)

    async def _connect(self) -> None:
        state = self._state
        if state.token is None and self._get_token is not None:
            state.set_token(await _awaited(self._get_token()))
        request = self._request()
        response = await self._client.send(request, stream=True, follow_redirects=False)
        for _ in range(MAX_REDIRECTS):
            if (request := response.next_request) is None:
                break
            await response.aclose()
            response = await self._client.send(request, stream=True, auth=None, follow_redirects=False)
        self._response, self._chunks = response, response.aiter_raw()
        if not state.opens(response.status_code, response.headers):
            body = await self._read_error()
            await self._disconnect()
            state.refuse(response.status_code, response.headers, body)

    async def _read_error(self) -> bytes:
        body, until = b"", time.monotonic() + MAX_ERROR_SECONDS
        with contextlib.suppress(self._library.TransportError):
            async for chunk in self._chunks:
                body += chunk
                if len(body) >= MAX_ERROR_BYTES or time.monotonic() >= until:
                    break
        return body

    async def _disconnect(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            with contextlib.suppress(self._library.TransportError):
                await response.aclose()

    async def _dispose(self) -> None:
        await self._disconnect()
        if self._owns_client and self._client is not None:
            await self._client.aclose()


async def _awaited(value: Any) -> Any:
    return await value if isawaitable(value) else value
