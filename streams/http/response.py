"""EventStreamResponse: send an async iterator as an event stream, from any Django view, with or without the log.

It handles the HTTP and Django side of a stream: the headers, the start, and a clean or a broken end. Its source decides
which bytes to send and when: a Subscriber of the log, or an IteratorSource around a view's own iterator.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import logging
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.handlers.wsgi import WSGIHandler

from streams.conf import settings
from streams.exceptions import LogUnavailable, NotMigrated
from streams.http import client_socket, shutdown, unfinished
from streams.http.closing import close_later, serving_loop
from streams.http.life import Life, end_of
from streams.http.serving import Send, Serving
from streams.http.source import IteratorSource, Source, is_source
from streams.http.stream_errors import error_event
from streams.private.django import ServedResponse
from streams.private.servers import DIRECT_SEND
from streams.protocol import sse
from streams.runtime.request_resources import release_request, request_context
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams")

NEEDS_ASGI = (
    "Event streams need ASGI: under WSGI each open stream would hold a worker for as long as it lives. Serve the "
    "site's `asgi.application` with daphne, uvicorn, granian or hypercorn (in tests, use AsyncClient)."
)

# How long a server has to end the request by itself after its client's connection was reset.
RESET_SECONDS = 1.0

ENDS = ("clean", "error")

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would otherwise collect events until a buffer is full
}


@functools.cache
def report_wsgi() -> None:
    """Log, once in this process, why streams are answered with an error."""
    logger.error(NEEDS_ASGI)


class EventStreamResponse(ServedResponse):
    """A Server-Sent Events response (WHATWG HTML, section 9.2) over an async iterator.

    Args:
        items: an async iterator or iterable. It yields Event, str (an event's data), bytes (sent as they are), or
            anything else that DjangoJSONEncoder can make an event's data of. (Or a Source, which paces itself.)
        timeout: the stream ends after so many seconds. The client then reconnects by itself.
        deadline: the stream ends at this aware datetime.
        heartbeat: seconds of silence after which a comment is sent. Default: HEARTBEAT_SECONDS.
        end: "clean", or "error": if the stream ends before its iterator does (timeout, deadline, shutdown, failure),
            the response is left incomplete, so that clients on fetch see an error and come back.
        status, headers: as in HttpResponse.

    The iterator runs in one task. When the client goes, that task is cancelled: `try: … finally: …` in the iterator
    cleans up. An exception is logged with its stack, and the client gets a `stream-error` event without its details.
    Before the first byte, the thread and the database connections that the request holds are given back; those that
    the iterator itself takes, by using the ORM, at its first silence of a heartbeat (so read a large queryset to its
    end before you wait for something else).
    """

    def __init__(
        self,
        items: Any,
        *,
        timeout: float | None = None,
        deadline: datetime.datetime | None = None,
        heartbeat: float | None = None,
        end: str = "clean",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not hasattr(items, "__aiter__"):
            raise TypeError(
                f"EventStreamResponse takes an async iterator; got {type(items).__name__}. Write the generator with "
                "`async def`, and await what it waits for: a sync one would be read to its end before the first byte."
            )
        ends_at = end_of(timeout, deadline)
        heartbeat = settings.HEARTBEAT_SECONDS if heartbeat is None else heartbeat
        if heartbeat <= 0:
            raise ValueError(f"heartbeat is a number of seconds above 0; got {heartbeat!r}.")
        source: Source = items if is_source(items) else IteratorSource(aiter(items), heartbeat)
        if end not in ENDS:
            raise ValueError(f"end is {' or '.join(map(repr, ENDS))}; got {end!r}.")
        self._body = _Body(source, ends_at, breaks=end == "error")
        super().__init__(self._body, status=status, headers=dict(headers or {}))
        for name, value in HEADERS.items():
            if name != "Cache-Control" or name not in self.headers:
                self.headers[name] = value

    def __aiter__(self) -> AsyncIterator[bytes]:
        # Without the two generators that StreamingHttpResponse puts around it, unless a middleware has wrapped it.
        self._body.is_plain = self.plain_iterator() is self._body
        return self._body if self._body.is_plain else super().__aiter__()

    def serve_to(self, scope: Mapping[str, Any]) -> None:
        """Set the ASGI request that the stream answers.

        The stream can then ask the kernel whether a slow client takes any bytes, and break the connection if not. If
        the kernel cannot answer, only the bytes that the server takes count.
        """
        self._body.scope = scope
        self._body.attend()

    def serve_by(self, serving: Serving, send: Send | None) -> None:
        """Set what serves the request, if it is not the current task, and a `send` that any task can call."""
        self._body.serving, self._body.send = serving, send

    @property
    def is_plain(self) -> bool:
        """Return True if no middleware sees the chunks. Known after aiter()."""
        return self._body.is_plain

    def stop(self, last: bytes = b"") -> None:
        """End the stream after the lines `last`, as its timeout would. Call it on the event loop that serves it."""
        self._body.expire(last)

    async def aclose(self) -> None:
        """End the stream and close its source. ASGI handlers do it; other code that reads a stream must call this."""
        await self._body.aclose()

    def has_header(self, header: str) -> bool:
        """As in HttpResponse, except that it always claims to have Content-Encoding.

        GZipMiddleware leaves such a response alone. In Django 5.2 it compresses each chunk as a gzip member of its own,
        and clients read only the first. The header itself is not sent: "identity" does not belong there (RFC 9110).
        """
        return header.lower() == "content-encoding" or super().has_header(header)

    __contains__ = has_header

    def served_by(self, handler: type) -> None:
        """Answer with an error under WSGI. If Django does not call this any more, iterating raises it."""
        if issubclass(handler, WSGIHandler):
            report_wsgi()
            self.status_code = 500
            self.headers["Content-Type"] = "text/plain; charset=utf-8"
            self.streaming_content = [NEEDS_ASGI.encode()]

    def __iter__(self) -> Iterator[bytes]:
        if self.is_async:
            raise RuntimeError(NEEDS_ASGI)
        return super().__iter__()


@dataclass(slots=True, weakref_slot=True, eq=False, repr=False)  # slots as in Subscriber
class _Body:
    """The iterator for the ASGI handler: the source's bytes within the stream's lifetime, with its failures caught."""

    source: Source
    ends_at: float | None  # in time.monotonic() seconds
    breaks: bool  # the response is left incomplete if it ends before its source is complete
    is_plain: bool = False  # no middleware sees its chunks

    # --- State ---
    scope: Mapping[str, Any] | None = None  # the request's, if the view has set it
    task: Serving | None = None  # the request's, if a server serves it
    serving: Serving | None = None  # if something else than the task that iterates serves it
    send: Send | None = None  # the server's, if any task can call it
    timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    stuck: tuple[object, float] | None = None  # the state of a client that takes nothing, and since when
    _started: bool = False
    _ended: bool = False
    _handed_at: float | None = None
    _line_ended: bool = True
    _life: Life = field(init=False)
    _abandoned: weakref.finalize[..., Any] = field(init=False)

    def __post_init__(self) -> None:
        # If a client leaves after the view has returned and before the handler iterates, aclose() is not called. The
        # response is only dropped.
        self._life = Life(self.source)
        self._abandoned = weakref.finalize(self, _abandon, self.source, serving_loop(), self._life)
        self._abandoned.atexit = False

    def __aiter__(self) -> _Body:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        # Without a coroutine, if the source can do without one: see Subscriber.pending().
        self._handed_at = None
        if self.breaks:
            return self._next_or_break()  # with the source's futures, the iteration would end outside of this class
        if self._started and not self._ended and (pending := self.source.pending()) is not None:
            return pending
        return self._step()

    async def _next_or_break(self) -> bytes:
        try:
            return await self._step()
        except StopAsyncIteration:
            if self.task is None or self.source.is_complete():
                raise
        await unfinished.leave(self.scope)
        raise AssertionError("The request goes on after it was left.")

    async def _step(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if not self._started:
            await self._start()
            self._started = True
        try:
            chunk = await self.source.__anext__()
        except StopAsyncIteration:
            self._ended = True
            shutdown.forget(self)  # if a middleware wraps this, aclose() may be left to the garbage collector
            raise
        except Exception as error:
            if not isinstance(error, LogUnavailable | NotMigrated):  # these are logged already
                logger.exception("An event stream failed.", extra=fields(event="stream-failed"))
            self._ended = True
            self._life.note("error")
            # If the last bytes end within a line, it is ended first: part of an event must not become an event.
            chunk = error_event(error) if self._line_ended else b"\n" + error_event(error)
        if chunk:
            self._line_ended = chunk.endswith(b"\n")
        if chunk is sse.HEARTBEAT and not self.source.is_reading():
            await release_request(only_idle=True)  # the connections that the iterator opened, unless it is using them
        self._handed_at = time.monotonic()
        return chunk

    def unsent_since(self) -> float | None:
        """Return when a chunk was handed out that has not been taken yet, in time.monotonic() seconds, or None."""
        return self.source.unsent_since() if self._handed_at is None else self._handed_at

    def attend(self) -> None:
        """End with the process from now on. Does nothing if no server serves this stream, as in a test."""
        if request_context() is not None:
            self.task = self.serving or asyncio.current_task()
            shutdown.attach(self)

    def stop(self, last: bytes = b"") -> None:
        """End the stream cleanly, because the process is stopping."""
        self._life.note("shutdown")
        self.source.stop(last)

    def expire(self, last: bytes = b"") -> None:
        """End the stream cleanly, because its lifetime is over."""
        self._life.note("lifetime")
        self.source.stop(last)

    def cut(self, reason: str = "shutdown") -> None:
        """End the stream by breaking the connection. `reason`: one of telemetry.recorder.END_REASONS."""
        if self.task is None or self.task.done() or self._abandoned.peek() is None:
            return
        self._life.note(reason)
        if client_socket.is_searching(self.scope):
            self.timers["cut"] = self.task.get_loop().call_later(client_socket.AGAIN_SECONDS, self.cut, reason)
            return
        if client_socket.reset(self.scope):
            # The server notices the end of the connection, and ends the request as for any client that has left. Only
            # hypercorn hangs in its write. No server blames the application for the incomplete response then.
            self.task.get_loop().call_later(RESET_SECONDS, self.task.cancel)
        else:
            self.task.cancel()

    async def aclose(self) -> None:
        self._ended = True
        shutdown.forget(self)
        for timer in self.timers.values():
            timer.cancel()
        self._life.end()
        if self._abandoned.detach() is not None:
            await self.source.aclose()

    def close(self) -> None:
        """Close the source. Django calls it at the end of the response, from any thread.

        It does so even if a middleware's generators around this iterator are left to the garbage collector.
        """
        self._abandoned()

    async def _start(self) -> None:
        self._life.begin()
        loop = asyncio.get_running_loop()
        if self.ends_at is not None:
            left = max(0.0, self.ends_at - time.monotonic())
            self.timers["lifetime"] = loop.call_later(left, _stop, weakref.ref(self))
        if request_context() is not None:
            await release_request()
            self.attend()
            if self.is_plain and (send := self.send or (self.scope or {}).get(DIRECT_SEND)) is not None:
                self.source.send_directly(send)
            _watch(weakref.ref(self), settings.SEND_TIMEOUT_SECONDS)


def _watch(body_ref: weakref.ref[_Body], limit: float) -> None:
    """Cut a client that takes nothing for `limit` seconds.

    It checks twice in that time instead of setting a timer for each chunk, so that the cut comes after 1 to 1.5 limits.
    A client takes nothing if a chunk waits, and the kernel's buffer, if it can be seen, does not shrink.
    """
    body = body_ref()
    if body is None or body.task is None or body.task.done():
        return
    loop, now, since = asyncio.get_running_loop(), time.monotonic(), body.unsent_since()
    if since is None or now - since < limit / 2:
        body.stuck = None
    elif client_socket.is_searching(body.scope):
        body.timers["watch"] = loop.call_later(client_socket.AGAIN_SECONDS, _watch, body_ref, limit)
        return
    else:
        seen = (since, client_socket.unsent(body.scope))
        if body.stuck is None or body.stuck[0] != seen:
            body.stuck = (seen, now)
        elif now - body.stuck[1] >= limit / 2:
            extra = fields(event="stream-cut", reason="slow", seconds=limit)
            logger.info("Cut a stream whose client took nothing for %.0f s.", limit, extra=extra)
            body.cut("slow")
            return
    body.timers["watch"] = loop.call_later(limit / 2, _watch, body_ref, limit)


def _stop(body_ref: weakref.ref[_Body]) -> None:
    if (body := body_ref()) is not None:
        body.expire()


def _abandon(source: Source, loop: asyncio.AbstractEventLoop | None, life: Life) -> None:
    """Close the source of a body that nothing refers to any more, or whose response was closed."""
    if loop is not None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            # Not here: the garbage collector can run while a lock of the metrics is held.
            loop.call_soon_threadsafe(life.end)
    close_later(source, loop)
