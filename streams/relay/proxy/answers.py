"""Reading an upstream's answer: its events, its limits, and what counts as its end.

How the bytes come is the upstream's business; what is done with the pieces, its readers'.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

from streams.closing import close_later
from streams.exceptions import HTTPError
from streams.relay.conf import settings
from streams.relay.errors import UpstreamError
from streams.relay.proxy.chunks import Chunk, first_choice, parse_object
from streams.relay.proxy.hiding import hidden, hide_in_event
from streams.relay.upstreams.base import BaseUpstream, UpstreamResponse
from streams.sse import DecodedEvent, EventStreamDecoder

logger = logging.getLogger("streams.relay")

# After the terminal event, the end of the body is as good as there. Waiting for it saves the connection.
DRAIN_SECONDS = 0.25

# As much of an upstream's error as is read.
MAX_ERROR_BYTES = 65_536

# An answer that has told why it ended, and what it has cost, is whole: the end itself may be so late.
END_SECONDS = 2.0

# No character of UTF-8 is longer.
MAX_CHARACTER_BYTES = 4


async def open_answer(upstream: BaseUpstream, body: Mapping[str, Any], *, total_seconds: float | None = None) -> Answer:
    """Send the request; returns when the head of the answer is there. Raises HTTPError.

    `body` has been through check_request(). Where it does not ask for a stream, an upstream is silent until it has the
    whole answer: then only the limit of the whole holds.
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
    """An upstream's answer. Iterating gives a stream's pieces, in order, until the terminal event.

    Raises HTTPError, after the pieces that came before, where the upstream sends an error, ends without a terminal
    event, breaks off, takes too long or sends too much. `usage`, `finish_reason` and `model` are what it has said of
    them so far. Whoever has an answer calls aclose(); one that is dropped without is closed all the same.
    """

    def __init__(
        self, upstream: BaseUpstream, response: UpstreamResponse, *, first_event_at: float, end_at: float
    ) -> None:
        self.status = response.status
        headers = response.headers
        self.headers = [(name, upstream.hide(value)) for name, value in headers if upstream.hide(name) == name]
        # Not the status: there are APIs that answer 200 with an error as JSON, and 400 with one as an event.
        self.is_stream = _content_type(response) == "text/event-stream"
        self.usage: dict[str, Any] | None = None
        self.finish_reason: str | None = None
        self.model: str | None = None
        # Read once: an answer has thousands of events.
        self._silence_seconds = settings.RELAY_SILENCE_SECONDS
        self._event_bytes = settings.RELAY_MAX_EVENT_BYTES
        self._answer_bytes = settings.RELAY_MAX_ANSWER_BYTES
        self._upstream = upstream
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._end_at = end_at
        self._waits_until: float | None = first_event_at  # for the next event; None while nobody waits
        self._has_begun = False
        self._bytes = 0
        self._decoder = EventStreamDecoder()
        self._pieces: deque[Chunk] = deque()
        self._end: HTTPError | None = None  # what to raise after the pieces
        self._finished = False
        self._abandoned = weakref.finalize(self, close_later, response, self._loop)
        self._abandoned.atexit = False
        # Also where nobody reads at that moment, for a slow client holds its reader up.
        self._expiry = self._loop.call_at(end_at, _expire, weakref.ref(self))

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Chunk:
        piece = await self.next_by(math.inf)
        assert piece is not None
        return piece

    async def next_by(self, moment: float) -> Chunk | None:
        """The next piece, as __anext__ gives it; None where there is none by that moment of the loop's clock."""
        while not self._pieces:
            if self._end is not None:
                raise self._end
            if self._finished:
                raise StopAsyncIteration
            if not await self._read(moment):
                return None
        return self._pieces.popleft()

    def take_waiting(self) -> list[Chunk]:
        """The pieces that have come already, beyond those that were handed out."""
        waiting = list(self._pieces)
        self._pieces.clear()
        return waiting

    async def aclose(self) -> None:
        """Close the upstream's connection, at once where the answer is not at its end. May be called by any task."""
        self._expiry.cancel()
        if self._abandoned.detach() is None:
            return
        drain = self._finished and self._end is None
        if not self._finished:
            self._end = self._end or HTTPError(502, "upstream-closed", "The answer was closed before its end.")
        try:
            if drain:
                await self._drain()
        finally:
            await self._response.aclose()

    def expire(self) -> None:
        """End the answer, for its time is over: what has come is still handed out, and the upstream let go now."""
        if not self._finished and self._end is None:
            self._end = _too_slow_as_a_whole()
            close_later(self._response, self._loop)

    async def read_error(self) -> HTTPError:
        """What the upstream says of why it does not answer. Never raises."""
        try:
            found = await self.read_json(MAX_ERROR_BYTES)
        except HTTPError as error:
            return error
        return UpstreamError(found.get("error") or found if isinstance(found, dict) else found)

    async def read_json(self, most_bytes: int) -> Any:
        """The body of an answer that is no stream, or an error that came as one. Raises HTTPError.

        Where the body does not come whole, is too long or no JSON, the error has the upstream's status, if that is one
        of an error.
        """
        status = self.status if self.status >= 400 else 502
        # An answer may be long in coming, after its head; an error is there at once, or never.
        until = self._end_at if self.status < 400 else min(self._end_at, self._loop.time() + self._silence_seconds)
        body = bytearray()
        while (chunk := await self._next_of_json(until)) is not None:
            body += chunk
            if len(body) > most_bytes:
                raise HTTPError(status, "upstream-too-large", f"The upstream's answer is over {most_bytes} bytes.")
            if self.is_stream and (events := self._decoder.feed(chunk)):
                return self._parsed(events[0].data, status)
        self._finished = True
        return self._parsed(body.decode("utf-8-sig", "replace"), status)

    async def _next_of_json(self, until: float) -> bytes | None:
        try:
            return await self._next_bytes(until)
        except HTTPError as error:
            status = self.status if self.status >= 400 else error.status
            raise HTTPError(status, error.code, "The upstream's answer did not come whole.") from None

    def _parsed(self, text: str, status: int) -> Any:
        try:
            return hidden(json.loads(text, parse_constant=_refuse_constant), self._upstream.hide)
        except (ValueError, RecursionError):
            raise HTTPError(
                status, "upstream-malformed", f"The upstream answered {self.status} with something that is not JSON."
            ) from None

    # --- Bytes ---

    async def _read(self, by: float) -> bool:
        """Take the next bytes into pieces, or come to the end. False where there were none by that moment."""
        is_whole = self.finish_reason is not None and self.usage is not None
        if self._waits_until is None:
            pause = min(END_SECONDS, self._silence_seconds) if is_whole else self._silence_seconds
            self._waits_until = self._loop.time() + pause
        try:
            chunk = await self._next_bytes(min(self._waits_until, self._end_at), by)
        except TimeoutError:
            return False
        except HTTPError as failure:
            if not is_whole or self._end is not None:
                self._end = failure
                return True
            chunk = None
        if chunk is None:
            if self.finish_reason is None:
                self._end = HTTPError(502, "upstream-ended", "The upstream's answer ended before it was complete.")
            self._finished = True
        else:
            self._take_bytes(chunk)
        return True

    def _take_bytes(self, chunk: bytes) -> None:
        for event in self._decoder.feed(chunk):
            if self._finished or self._end is not None:
                break
            self._take(event)
        self._bytes += len(chunk)
        if self._finished or self._end is not None:
            return
        if self._decoder.held > self._event_bytes:
            self._end = _too_large("An event", "RELAY_MAX_EVENT_BYTES", self._event_bytes)
        elif self._bytes > self._answer_bytes:
            self._end = _too_large("The answer", "RELAY_MAX_ANSWER_BYTES", self._answer_bytes)

    async def _next_bytes(self, until: float, by: float = math.inf) -> bytes | None:
        """The body's next bytes; None at its end. Raises HTTPError at `until`, TimeoutError at `by`."""
        if self._end is not None:
            raise self._end
        if self._loop.time() >= self._end_at:  # bytes that are there already would be read without a look at the clock
            raise _too_slow_as_a_whole()
        try:
            async with asyncio.timeout_at(min(until, by)):
                return await anext(self._response)
        except StopAsyncIteration:
            if self._end is not None:  # closed meanwhile
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
            pass  # it is closed then

    # --- Events ---

    def _take(self, event: DecodedEvent) -> None:
        if not event.data.strip():
            return  # as good as a comment, and no client of such APIs takes it for anything else
        most = self._event_bytes
        if len(event.data) * MAX_CHARACTER_BYTES > most and len(event.data.encode()) > most:
            self._end = _too_large("An event", "RELAY_MAX_EVENT_BYTES", most)
            return
        self._waits_until = None
        self._has_begun = True
        if event.data.lstrip().startswith("[DONE]"):  # as clients see it
            self._finished = True
            return
        hide = self._upstream.hide
        data, name = hide(event.data), hide(event.event)
        try:
            data, chunk = hide_in_event(data, parse_object(data), hide)
        except RecursionError:  # it could be read, but not gone through
            self._end = HTTPError(502, "upstream-malformed", "An event of the upstream is nested too deeply.")
            return
        if name == "error" or chunk.get("error"):
            self._end = UpstreamError(chunk.get("error") or chunk or data)
            return
        self._pieces.append(self._piece(data, name, chunk))

    def _piece(self, data: str, event: str, chunk: dict[str, Any]) -> Chunk:
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        if isinstance(chunk.get("model"), str):
            self.model = chunk["model"]
        choice = first_choice(chunk)
        if choice is None:
            is_usage = chunk.get("usage") is not None and not chunk.get("choices")
            return Chunk(data, event, is_empty=is_usage or chunk.get("choices") == [])
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason != "null":  # as DashScope's own protocol says for None
            self.finish_reason = reason
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, dict):
            return Chunk(data, event)
        names = ("content", "reasoning_content", "refusal")
        text, reasoning, refusal = (value if isinstance(value := delta.get(name), str) else "" for name in names)
        calls_tools = bool(delta.get("tool_calls") or delta.get("function_call"))
        return Chunk(data, event, text, reasoning, refusal, calls_tools)


def _content_type(response: UpstreamResponse) -> str:
    values = (value for name, value in response.headers if name == "content-type")
    return next(values, "").split(";")[0].strip().lower()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON.")


def _expire(answer_ref: weakref.ref[Answer]) -> None:
    """Let the upstream of an answer go that has taken too long as a whole."""
    if (answer := answer_ref()) is not None:
        answer.expire()


def _too_slow_as_a_whole() -> HTTPError:
    return HTTPError(504, "upstream-timeout", "The answer took longer than it may as a whole.")


def _too_slow(what: str, seconds: float) -> HTTPError:
    return HTTPError(504, "upstream-timeout", f"The upstream {what} within {seconds:g} seconds.")


def _too_large(what: str, key: str, most: int) -> HTTPError:
    return HTTPError(502, "upstream-too-large", f"{what} of the upstream is over {most} bytes (STREAMS[{key!r}]).")
