"""One relayed answer, from the request to its last byte."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from streams.conf import settings as core_settings
from streams.exceptions import HTTPError
from streams.protocol import sse
from streams.relay.access import Principal
from streams.relay.conf import settings
from streams.relay.errors import UpstreamError, openai_error
from streams.relay.limits import take_slot
from streams.relay.models import Usage
from streams.relay.proxy.answers import MAX_ERROR_BYTES, Answer, open_answer
from streams.relay.proxy.chunks import Chunk
from streams.relay.upstreams.base import BaseUpstream
from streams.relay.usage import record_soon
from streams.runtime.tasks import spawn
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams.relay")

DONE = b"data: [DONE]\n\n"

# How long a request whose client has disconnected waits until its usage is recorded.
RECORD_SECONDS = 5.0


class Exchange:
    """A request of a principal to an upstream, and the answer.

    It takes a connection slot (or raises HTTPError, 429), and keeps it and the upstream's connection until aclose().
    Call start() first. If the answer is a stream, the exchange is an async iterator of the bytes to send: each event
    when it arrives, an error if there was one, and `[DONE]` at the end.
    """

    kind = "relay"
    stop_reason = ""

    def __init__(
        self, principal: Principal, upstream: BaseUpstream, body: Mapping[str, Any], *, shows_usage: bool = False
    ) -> None:
        self.closed = False
        self.answer: Answer | None = None
        self._principal = principal
        self._upstream = upstream
        self._body = body
        self._shows_usage = shows_usage
        self._slot = take_slot(principal.key)
        self._began_at = time.monotonic()
        self._opening: asyncio.Task[Chunk | None] | None = None
        self._heartbeat_seconds = core_settings.HEARTBEAT_SECONDS
        self._has_beaten = False
        self._first_taken = False
        self._over = False  # everything has been returned
        self._stopped = False  # by stop(), before the end
        self._outcome = Usage.Outcome.CANCELLED  # until it ends
        self._chunks = 0

    def start(self) -> None:
        """Ask the upstream, in a task."""
        self._opening = asyncio.create_task(self._open())

    async def wait_for_answer(self, seconds: float | None) -> Answer | None:
        """Return the upstream's answer, or None if there is none after `seconds` (None: no limit).

        A stream counts as an answer when its first event arrives. Until then, an error can be sent as the response's
        status. Raises HTTPError.
        """
        assert self._opening is not None
        done, _ = await asyncio.wait([self._opening], timeout=seconds)
        if not done:
            return None
        try:
            self._opening.result()
        except Exception as error:
            self._outcome = Usage.Outcome.FAILED
            raise self._told(error) from None
        return self.answer

    async def _open(self) -> Chunk | None:
        """Return the first chunk, or None if there is none."""
        self.answer = await open_answer(self._upstream, self._body)
        return await anext(self.answer, None) if self._streams and self._body.get("stream") else None

    @property
    def _streams(self) -> bool:
        return self.answer is not None and self.answer.is_stream and self.answer.status < 400

    async def read_json(self) -> Any:
        """Return the JSON body of an answer that is not a stream. Raises HTTPError."""
        assert self.answer is not None
        has_failed = self.answer.status >= 400
        try:
            if self._streams:
                raise HTTPError(502, "upstream-malformed", "The upstream sent a stream, which was not requested.")
            found = await self.answer.read_json(MAX_ERROR_BYTES if has_failed else settings.RELAY_MAX_ANSWER_BYTES)
        except HTTPError:
            self._outcome = Usage.Outcome.FAILED
            raise
        self._outcome = Usage.Outcome.FAILED
        if not has_failed and isinstance(found, dict):
            if found.get("error") and not found.get("choices"):
                raise UpstreamError(found["error"])  # the clients of such APIs look at the status
            self._outcome = Usage.Outcome.DONE
            self.answer.usage = found["usage"] if isinstance(found.get("usage"), dict) else None
        return found

    # --- As a stream: the protocol http.source.Source, for EventStreamResponse ---

    def __aiter__(self) -> Exchange:
        return self

    async def __anext__(self) -> bytes:
        if not self._over and not self.closed:
            try:
                return await self._next()
            except Exception as error:  # StopAsyncIteration as well
                if not self.closed:  # while this waited
                    self._over = True
                    return self._last(error)
        if self._over or not self._stopped:
            raise StopAsyncIteration
        self._over = True
        return self._error(HTTPError(503, "restarting", "This server is being restarted. Send the request again."))

    def _last(self, error: Exception) -> bytes:
        """Return the bytes that end the stream."""
        if isinstance(error, StopAsyncIteration):
            self._outcome = Usage.Outcome.DONE
            return DONE
        self._outcome = Usage.Outcome.FAILED
        return self._error(error)

    def _error(self, error: Exception) -> bytes:
        return sse.encode(json.dumps(openai_error(self._told(error)), separators=(",", ":"))) + DONE

    async def _next(self) -> bytes:
        """Return all events that have arrived, or a heartbeat. Raises StopAsyncIteration at the end of the answer."""
        beat_at = asyncio.get_running_loop().time() + self._heartbeat_seconds
        if not self._first_taken:
            return await self._next_of_opening()
        assert self.answer is not None
        while True:
            chunk = await self.answer.next_by(beat_at)
            if chunk is None:
                return sse.HEARTBEAT
            if data := self._encoded(chunk) + b"".join(map(self._encoded, self.answer.take_waiting())):
                return data

    async def _next_of_opening(self) -> bytes:
        """Return the first chunk, or heartbeats until it arrives; the first one at once, to send the headers."""
        assert self._opening is not None
        waits = self._heartbeat_seconds if self._has_beaten else 0
        done, _ = await asyncio.wait([self._opening], timeout=waits)
        self._has_beaten = True
        if self.closed:
            raise StopAsyncIteration
        if not done:
            return sse.HEARTBEAT
        self._first_taken = True
        first = self._opening.result()
        if not self._streams:
            raise await self._refusal()
        return (self._encoded(first) if first is not None else b"") or sse.HEARTBEAT

    def pending(self) -> None:
        return None

    def unsent_since(self) -> None:
        return None

    def send_directly(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        return  # there are no pending() futures

    def is_complete(self) -> bool:
        return self._over

    def is_reading(self) -> bool:
        return False  # an upstream is read without the request's connections

    def stop(self, last: bytes = b"") -> None:
        """End the iteration at once, with an error, because clients take an end without an error for a complete answer.

        `last` is ignored: clients of such APIs do not know a retry time, and fail at an event without data.
        """
        self._stopped = True
        spawn(self.aclose(), finish=True)

    def _told(self, error: Exception) -> HTTPError:
        """Return the error to send. Unexpected exceptions are only logged, because their text can hold secrets."""
        if isinstance(error, HTTPError):
            return error
        extra = fields(event="answer-failed", upstream=self._upstream.name)
        logger.error("Relaying an answer of %s failed.", self._upstream.name, exc_info=error, extra=extra)
        return HTTPError(500, "internal", "The answer failed on this server. Send the request again.")

    def _encoded(self, chunk: Chunk) -> bytes:
        if chunk.is_empty and not self._shows_usage:
            return b""
        self._chunks += not chunk.is_empty
        return sse.encode(chunk.data, event=chunk.event)

    async def _refusal(self) -> HTTPError:
        """Return the error of an upstream that refused the request after the stream to the client had started."""
        assert self.answer is not None
        error = await self.answer.read_error()
        told = error.sent if isinstance(error, UpstreamError) else None
        if self.answer.status < 400 and isinstance(told, dict) and "choices" in told:
            return HTTPError(502, "upstream-malformed", "The upstream answered at once and not with a stream.")
        return error

    # --- The end ---

    async def aclose(self) -> None:
        """Release the slot and close the upstream, at once if the answer is incomplete.

        If it is complete, this does not wait for the end of the upstream's body and for the record of its usage, so
        that the client's response ends without a delay.
        """
        if self.closed:
            return
        self.closed = True
        cut_off = self._outcome == Usage.Outcome.CANCELLED
        try:
            if self._opening is not None and not self._opening.done():
                self._opening.cancel()
                await asyncio.wait([self._opening])
            if self._opening is not None and not self._opening.cancelled():
                self._opening.exception()  # without this, asyncio logs an exception that nobody has waited for
            if self.answer is not None:
                closing = spawn(self.answer.aclose())
                if cut_off:
                    await asyncio.shield(closing)
        finally:
            self._slot.release()
            recording = self._record()
        if cut_off and recording is not None:  # so that a server that is shutting down waits for it
            await asyncio.wait([recording], timeout=RECORD_SECONDS)

    def _record(self) -> asyncio.Task[None] | None:
        opening, answer = self._opening, self.answer
        if opening is None or (answer is not None and answer.status >= 400):
            return None  # there was no answer, so there is no cost
        if answer is None and opening.done() and not opening.cancelled():
            error = opening.exception()
            if not (isinstance(error, HTTPError) and error.code == "upstream-timeout"):
                return None  # the upstream never got the request; after a timeout, it can have worked on it
        return record_soon(
            user_id=None if self._principal.user is None else self._principal.user.pk,
            caller=self._principal.key,
            upstream=self._upstream.name,
            model=self._body["model"],
            outcome=self._outcome,
            seconds=time.monotonic() - self._began_at,
            usage=answer.usage if answer is not None else None,
            chunks=self._chunks,
        )
