"""EventStreamResponse: an async iterator as an event stream, from any Django view, with or without the log.

It owns what a stream needs of HTTP and of Django: the headers, the start and the end, in good order or not. What is
sent, and when, is its source's: a Subscriber of the log, or a Feed around a view's own iterator.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import json
import logging
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from typing import Any

from django.core.handlers.wsgi import WSGIHandler
from django.utils import timezone

from streams import shutdown, sockets, sse, unfinished
from streams.closing import close_later, serving_loop
from streams.conf import settings
from streams.exceptions import LogUnavailable, NotMigrated
from streams.feed import Feed, Source
from streams.private.django import ServedResponse
from streams.release import release_request, request_context

logger = logging.getLogger("streams")

NEEDS_ASGI = (
    "Event streams need ASGI: under WSGI each open stream would hold a worker for as long as it lives. Serve the "
    "site's `asgi.application` with daphne, uvicorn, granian or hypercorn (in tests, use AsyncClient)."
)


@functools.cache
def report_wsgi() -> None:
    """Log, once in this process, why streams are answered with an error."""
    logger.error(NEEDS_ASGI)


# How long a server has, after its client's connection was reset, to end the request by itself.
RESET_SECONDS = 1.0

# What a client is told of an exception. The exception itself goes to the log: it may hold anything.
STREAM_ERROR = sse.encode(
    '{"code":"internal","message":"The stream failed on the server. Reconnect to go on."}', event="stream-error"
)


ENDS = ("clean", "error")

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would otherwise collect events until a buffer is full
}


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
        lifetime = _lifetime(timeout, deadline)
        heartbeat = settings.HEARTBEAT_SECONDS if heartbeat is None else heartbeat
        if heartbeat <= 0:
            raise ValueError(f"heartbeat is a number of seconds above 0; got {heartbeat!r}.")
        source: Source = items if isinstance(items, Source) else Feed(aiter(items), heartbeat)
        if end not in ENDS:
            raise ValueError(f"end is {' or '.join(map(repr, ENDS))}; got {end!r}.")
        self._body = (_Body if end == "clean" else _BreakingBody)(source, lifetime)
        super().__init__(self._body, status=status, headers=dict(headers or {}))
        for name, value in HEADERS.items():
            if name != "Cache-Control" or name not in self.headers:
                self.headers[name] = value

    def __aiter__(self) -> AsyncIterator[bytes]:
        # Without the two generators that StreamingHttpResponse puts around it, unless a middleware has wrapped it.
        return self._body if self.plain_iterator() is self._body else super().__aiter__()

    def serve_to(self, scope: Mapping[str, Any]) -> None:
        """Tell the stream which ASGI request it answers.

        It can then see, where the kernel tells, whether a slow client takes anything, and break the connection of one
        that does not. Otherwise it goes by what the server takes.
        """
        self._body.scope = scope
        self._body.attend()

    async def aclose(self) -> None:
        """End the stream and let go of its source. Handlers do it by themselves; whoever reads by hand does it here."""
        await self._body.aclose()

    def has_header(self, header: str) -> bool:
        """As in HttpResponse, but for Content-Encoding, which it always claims to have.

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


def _lifetime(timeout: float | None, deadline: datetime.datetime | None) -> float | None:
    """Seconds to live, from both; None for no end."""
    if timeout is not None and timeout <= 0:
        raise ValueError(f"timeout is a number of seconds above 0; got {timeout!r}.")
    if deadline is None:
        return timeout
    if timezone.is_naive(deadline):
        raise ValueError(f"deadline is an aware datetime (see django.utils.timezone); got {deadline!r}.")
    left = max(0.0, (deadline - timezone.now()).total_seconds())
    return left if timeout is None else min(timeout, left)


class _Body:
    """What the handler iterates: the source's bytes, within the stream's lifetime, with its failures caught."""

    # As in Subscriber: every delivery touches it.
    __slots__ = (
        "__weakref__",
        "_abandoned",
        "_ended",
        "_ends_at",
        "_handed_at",
        "_line_ended",
        "_source",
        "_started",
        "scope",
        "stuck",
        "task",
        "timers",
    )

    def __init__(self, source: Source, lifetime: float | None) -> None:
        self._source = source
        # From now on and not from the first byte: what a stream begins with may take a while.
        self._ends_at = None if lifetime is None else time.monotonic() + lifetime
        self._started = False
        self._ended = False
        self.timers: dict[str, asyncio.TimerHandle] = {}
        self.scope: Mapping[str, Any] | None = None  # the request's, where the view has told us
        self.task: asyncio.Task[Any] | None = None  # the request's, where a server serves it
        self.stuck: tuple[object, float] | None = None  # what was seen of a client that takes nothing, and since when
        self._handed_at: float | None = None
        self._line_ended = True
        # A client may leave after the view has returned and before anyone iterates. Then nobody calls aclose() either:
        # all that happens is that the response is dropped.
        self._abandoned = weakref.finalize(self, close_later, source, serving_loop())
        self._abandoned.atexit = False

    def __aiter__(self) -> _Body:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        # No coroutine, and none in between where the source can do without: see Subscriber.pending.
        self._handed_at = None
        if self._started and not self._ended and (pending := self._source.pending()) is not None:
            return pending
        return self._step()

    async def _step(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if not self._started:
            await self._start()
            self._started = True
        try:
            chunk = await self._source.__anext__()
        except StopAsyncIteration:
            self._ended = True
            shutdown.forget(self)  # aclose() may be left to the garbage collector, where a middleware wraps this
            raise
        except Exception as error:
            if not isinstance(error, LogUnavailable | NotMigrated):  # of which the log knows
                logger.exception("An event stream failed.")
            self._ended = True
            # After bytes that end within a line, its end comes first: the piece of an event must not become one.
            chunk = _error_event(error) if self._line_ended else b"\n" + _error_event(error)
        if chunk:
            self._line_ended = chunk.endswith(b"\n")
        if chunk is sse.HEARTBEAT and not self._source.is_reading():
            await release_request(only_idle=True)  # what the iterator took, unless it is busy there
        self._handed_at = time.monotonic()
        return chunk

    def unsent_since(self) -> float | None:
        """Since when, in time.monotonic() seconds, a chunk has been handed out that has not been taken yet."""
        return self._source.unsent_since() if self._handed_at is None else self._handed_at

    def attend(self) -> None:
        """Hear of the process's end from now on. Where no server serves this stream, as in a test, there is none."""
        if request_context() is not None:
            self.task = asyncio.current_task()
            shutdown.attach(self)

    def stop(self, last: bytes = b"") -> None:
        """End the stream, in good order."""
        self._source.stop(last)

    def cut(self) -> None:
        """End the stream by breaking the connection."""
        if self.task is None or self.task.done() or self._abandoned.peek() is None:
            return
        if sockets.is_searching(self.scope):
            self.timers["cut"] = self.task.get_loop().call_later(sockets.AGAIN_SECONDS, self.cut)
            return
        if self.scope is not None and sockets.reset(self.scope):
            # The server sees the end of the connection, and ends the request as for any client that has left. Not so
            # hypercorn, stuck in its write; by then none of them takes the unfinished response for our fault.
            self.task.get_loop().call_later(RESET_SECONDS, self.task.cancel)
        else:
            self.task.cancel()

    async def aclose(self) -> None:
        self._ended = True
        shutdown.forget(self)
        for timer in self.timers.values():
            timer.cancel()
        if self._abandoned.detach() is not None:
            await self._source.aclose()

    def close(self) -> None:
        """What Django calls at the response's end, from any thread: also where a middleware's generators around this
        iterator are left to the garbage collector."""
        self._abandoned()

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._ends_at is not None:
            left = max(0.0, self._ends_at - time.monotonic())
            self.timers["lifetime"] = loop.call_later(left, _stop, weakref.ref(self))
        if request_context() is not None:
            await release_request()
            self.attend()
            _watch(weakref.ref(self), settings.SEND_TIMEOUT_SECONDS)


class _BreakingBody(_Body):
    """A body that is left incomplete if the stream ends before its source is complete."""

    __slots__ = ()

    def __anext__(self) -> Awaitable[bytes]:
        return self._next()  # the source's futures would end the iteration past this class

    async def _next(self) -> bytes:
        self._handed_at = None
        try:
            return await self._step()
        except StopAsyncIteration:
            if self.task is None or self._source.is_complete():
                raise
        await unfinished.leave(self.scope)
        raise AssertionError("The request goes on after it was left.")


def _watch(body_ref: weakref.ref[_Body], limit: float) -> None:
    """Cut a client that takes nothing for `limit` seconds.

    Looks twice in that time instead of setting a timer for each chunk; so the cut comes after one to one and a half
    limits. Nothing is taken while a chunk waits and the kernel's buffer, where it can be seen, does not shrink either.
    """
    body = body_ref()
    if body is None or body.task is None or body.task.done():
        return
    loop, now, since = asyncio.get_running_loop(), time.monotonic(), body.unsent_since()
    if since is None or now - since < limit / 2:
        body.stuck = None
    elif sockets.is_searching(body.scope):
        body.timers["watch"] = loop.call_later(sockets.AGAIN_SECONDS, _watch, body_ref, limit)
        return
    else:
        seen = (since, None if body.scope is None else sockets.unsent(body.scope))
        if body.stuck is None or body.stuck[0] != seen:
            body.stuck = (seen, now)
        elif now - body.stuck[1] >= limit / 2:
            logger.info("Cut a stream whose client took nothing for %.0f s.", limit)
            body.cut()
            return
    body.timers["watch"] = loop.call_later(limit / 2, _watch, body_ref, limit)


def _stop(body_ref: weakref.ref[_Body]) -> None:
    if (body := body_ref()) is not None:
        body.stop()


def _error_event(error: Exception) -> bytes:
    if isinstance(error, NotMigrated):  # whoever sets up the site sees it in the browser
        return sse.encode(json.dumps({"code": "not-migrated", "message": str(error)}), event="stream-error")
    return STREAM_ERROR
