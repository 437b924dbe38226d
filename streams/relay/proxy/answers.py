"""Read an upstream's answer: decode its events, enforce the limits, and detect its end.

`upstreams` provides the bytes. exchange.py and the worker of generations use the chunks.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

from streams.exceptions import HTTPError, InvalidJSON
from streams.http.closing import close_later
from streams.protocol.json_bodies import parse_json
from streams.protocol.sse import DecodedEvent, EventStreamDecoder
from streams.relay.conf import settings
from streams.relay.errors import UpstreamError
from streams.relay.proxy.chunks import Chunk, first_choice, is_plain, parse_object
from streams.relay.proxy.hiding import hidden, hide_in_event
from streams.relay.upstreams.base import BaseUpstream, UpstreamResponse

# After the terminal event, the end of the body comes soon. If it is awaited, the connection can be used again.
DRAIN_SECONDS = 0.25

# The limit for the body of an upstream's error.
MAX_ERROR_BYTES = 65_536

# An answer with a finish reason and usage is complete. The wait for its terminal event is this long at most.
END_SECONDS = 2.0

# The longest character in UTF-8.
MAX_CHARACTER_BYTES = 4


async def open_answer(upstream: BaseUpstream, body: Mapping[str, Any], *, total_seconds: float | None = None) -> Answer:
    """Send the request `body`, as check_request() returned it. Return when the headers of the answer have arrived.

    If `body` does not ask for a stream, the upstream is silent until its answer is complete. Then only the limit of the
    total time applies. Raises HTTPError.
    """
    total = settings.RELAY_TOTAL_SECONDS if total_seconds is None else total_seconds
    first = min(settings.RELAY_FIRST_EVENT_SECONDS, total) if body.get("stream") else total
    began = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(began + first):
            response = await upstream.send(body)
    except TimeoutError:
        raise _too_slow("did not answer", first) from None
    return Answer(upstream, response, first_event_at=began + first, end_at=began + total)


class Answer:
    """An upstream's answer. If it is a stream, iterating yields its chunks until the terminal event.

    After the last chunk, it raises HTTPError if the upstream has sent an error, has ended without a terminal event, was
    disconnected, or has exceeded a limit of time or size. `usage` and `finish_reason` are the latest values in the
    chunks so far. Call aclose() at the end. An answer that is garbage-collected without it is closed as well.
    """

    def __init__(
        self, upstream: BaseUpstream, response: UpstreamResponse, *, first_event_at: float, end_at: float
    ) -> None:
        self.status = response.status
        shown = ((name, value) for name, value in response.headers if upstream.hide(name) == name)
        self.headers = [(name, upstream.hide(value)) for name, value in shown]
        # Not by the status: some APIs send a 200 with an error as JSON, or a 400 with an error as an event.
        self.is_stream = _content_type(response) == "text/event-stream"
        self.usage: dict[str, Any] | None = None
        self.finish_reason: str | None = None
        # Read the settings once, because an answer has thousands of events.
        self._silence_seconds = settings.RELAY_SILENCE_SECONDS
        self._event_bytes = settings.RELAY_MAX_EVENT_BYTES
        self._answer_bytes = settings.RELAY_MAX_ANSWER_BYTES
        self._upstream = upstream
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._end_at = end_at
        self._waits_until: float | None = first_event_at  # for the next event; None if it has not been set
        self._has_begun = False
        self._bytes = 0
        self._decoder = EventStreamDecoder()
        self._chunks: deque[Chunk] = deque()
        self._end: Exception | None = None  # what to raise after the chunks: StopAsyncIteration or HTTPError
        self._abandoned = weakref.finalize(self, close_later, response, self._loop)
        self._abandoned.atexit = False
        # A timer, because a slow client can keep this answer from being read at that time.
        self._expiry = self._loop.call_at(end_at, _expire, weakref.ref(self))

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Chunk:
        chunk = await self.next_by(math.inf)
        assert chunk is not None
        return chunk

    async def next_by(self, moment: float) -> Chunk | None:
        """Return the next chunk, or None if there is none at `moment`, by the clock of the event loop."""
        while not self._chunks:
            if self._end is not None:
                raise self._end
            if not await self._read(moment):
                return None
        return self._chunks.popleft()

    def take_waiting(self) -> list[Chunk]:
        """Return the chunks that have already arrived and were not returned yet."""
        waiting = list(self._chunks)
        self._chunks.clear()
        return waiting

    async def aclose(self) -> None:
        """Close the upstream's connection, at once if the answer has not ended. Can be called by any task."""
        self._expiry.cancel()
        if self._abandoned.detach() is None:
            return
        self._end = self._end or HTTPError(502, "upstream-closed", "The answer was closed before its end.")
        try:
            if isinstance(self._end, StopAsyncIteration):
                await self._drain()
        finally:
            await self._response.aclose()

    async def read_error(self) -> HTTPError:
        """Return the upstream's own error, or the error of reading it. Never raises."""
        try:
            found = await self.read_json(MAX_ERROR_BYTES)
        except HTTPError as error:
            return error
        return UpstreamError(found.get("error") or found if isinstance(found, dict) else found)

    async def read_json(self, most_bytes: int) -> Any:
        """Return the JSON body of an answer that is not a stream, or an error that was sent as an event.

        Raises HTTPError if the body is incomplete, longer than `most_bytes` or not JSON. Its status is the upstream's,
        if that is an error, and 502 otherwise.
        """
        status = self.status if self.status >= 400 else 502
        # After its headers, an answer can take long to arrive. An error arrives at once or never.
        until = self._end_at if self.status < 400 else min(self._end_at, self._loop.time() + self._silence_seconds)
        body = bytearray()
        while (data := await self._next_of_json(until)) is not None:
            body += data
            if len(body) > most_bytes:
                raise HTTPError(status, "upstream-too-large", f"The upstream's answer is over {most_bytes} bytes.")
            if self.is_stream and (events := self._decoder.feed(data)):
                return self._parsed(events[0].data, status)
        self._end = StopAsyncIteration()
        return self._parsed(body.decode("utf-8-sig", "replace"), status)

    async def _next_of_json(self, until: float) -> bytes | None:
        try:
            return await self._next_bytes(until)
        except HTTPError as error:
            status = self.status if self.status >= 400 else error.status
            raise HTTPError(status, error.code, "The upstream's answer was incomplete.") from None

    def _parsed(self, text: str, status: int) -> Any:
        try:
            # Which of two values with the same name counts is left to the client.
            return hidden(parse_json(text, object_pairs_hook=None), self._upstream.hide)
        except (InvalidJSON, RecursionError):
            raise HTTPError(
                status, "upstream-malformed", f"The upstream answered {self.status} with something that is not JSON."
            ) from None

    # --- Bytes ---

    async def _read(self, by: float) -> bool:
        """Decode the next bytes into chunks, or record the end. Return False if neither happened until `by`."""
        is_whole = self.finish_reason is not None and self.usage is not None
        if self._waits_until is None:
            pause = min(END_SECONDS, self._silence_seconds) if is_whole else self._silence_seconds
            self._waits_until = self._loop.time() + pause
        try:
            data = await self._next_bytes(min(self._waits_until, self._end_at), by)
        except TimeoutError:
            return False
        except HTTPError as failure:
            if not is_whole or self._end is not None:
                self._end = failure
                return True
            data = None
        if data is not None:
            self._take_bytes(data)
        elif self.finish_reason is not None:
            self._end = StopAsyncIteration()
        else:
            self._end = HTTPError(502, "upstream-ended", "The upstream's answer ended before it was complete.")
        return True

    def _take_bytes(self, data: bytes) -> None:
        for event in self._decoder.feed(data):
            if self._end is not None:
                return
            self._take(event)
        self._bytes += len(data)
        if self._end is not None:
            return
        if self._decoder.held > self._event_bytes:
            self._end = _too_large("An event", "RELAY_MAX_EVENT_BYTES", self._event_bytes)
        elif self._bytes > self._answer_bytes:
            self._end = _too_large("The answer", "RELAY_MAX_ANSWER_BYTES", self._answer_bytes)

    async def _next_bytes(self, until: float, by: float = math.inf) -> bytes | None:
        """Return the body's next bytes, None at its end. Raises HTTPError at `until`, TimeoutError at `by`."""
        if self._end is not None:
            raise self._end
        if self._loop.time() >= self._end_at:  # asyncio.timeout() does not interrupt bytes that have already arrived
            raise _too_slow_as_a_whole()
        try:
            async with asyncio.timeout_at(min(until, by)):
                return await anext(self._response)
        except StopAsyncIteration:
            if self._end is not None:  # it was closed while this waited
                raise self._end from None
            return None
        except TimeoutError:
            if by < until:
                raise
            if until >= self._end_at:
                raise _too_slow_as_a_whole() from None
            if self._has_begun:
                raise _too_slow("sent no event", self._silence_seconds) from None
            raise _too_slow("sent no first event", settings.RELAY_FIRST_EVENT_SECONDS) from None

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                async for _ in self._response:
                    pass
        except (TimeoutError, HTTPError):
            pass  # aclose() closes it

    # --- Events ---

    def _take(self, event: DecodedEvent) -> None:
        data, name = event.data, event.event
        if not (stripped := data.strip()):
            return  # clients of such APIs ignore it, like a comment
        most = self._event_bytes
        if len(data) * MAX_CHARACTER_BYTES > most and len(data.encode()) > most:
            self._end = _too_large("An event", "RELAY_MAX_EVENT_BYTES", most)
            return
        self._waits_until = None
        self._has_begun = True
        if stripped.startswith("[DONE]"):  # clients compare it in this way
            self._end = StopAsyncIteration()
            return
        hide = self._upstream.hide
        data = hide(data)
        if name != "message":
            name = hide(name)
        if name != "error" and is_plain(data):
            self._chunks.append(Chunk(data, name))
            return
        try:
            data, body = hide_in_event(data, parse_object(data), hide)
        except RecursionError:  # the parser accepts deeper nesting than hide_in_event()
            self._end = HTTPError(502, "upstream-malformed", "An event of the upstream is nested too deeply.")
            return
        if name == "error" or body.get("error"):
            self._end = UpstreamError(body.get("error") or body or data)
            return
        self._chunks.append(self._chunk(data, name, body))

    def _chunk(self, data: str, event: str, body: dict[str, Any]) -> Chunk:
        if isinstance(body.get("usage"), dict):
            self.usage = body["usage"]
        choice = first_choice(body)
        if choice is None:
            is_usage = body.get("usage") is not None and not body.get("choices")
            return Chunk(data, event, body, is_empty=is_usage or body.get("choices") == [])
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason != "null":  # DashScope's own protocol has "null" for None
            self.finish_reason = reason
        return Chunk(data, event, body)


def _content_type(response: UpstreamResponse) -> str:
    values = (value for name, value in response.headers if name == "content-type")
    return next(values, "").split(";")[0].strip().lower()


def _expire(answer_ref: weakref.ref[Answer]) -> None:
    """End an answer that has reached the limit of its total time. Chunks that have arrived are returned."""
    answer = answer_ref()
    if answer is not None and answer._end is None:
        answer._end = _too_slow_as_a_whole()
        close_later(answer._response, answer._loop)


def _too_slow_as_a_whole() -> HTTPError:
    return HTTPError(504, "upstream-timeout", "The answer exceeded the limit of its total time.")


def _too_slow(what: str, seconds: float) -> HTTPError:
    return HTTPError(504, "upstream-timeout", f"The upstream {what} within {seconds:g} seconds.")


def _too_large(what: str, key: str, most: int) -> HTTPError:
    return HTTPError(502, "upstream-too-large", f"{what} of the upstream is over {most} bytes (STREAMS[{key!r}]).")
