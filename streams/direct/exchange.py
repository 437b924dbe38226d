"""One request for a stream, and its response.

While a stream is live and the server allows it, its messages are sent without a task (see Subscriber.send_directly).
So the stream holds no task but the server's own, which waits for the client to leave. A second task exists only while
there is something to do: the view, a replay, a server that waits for a slow client, the end.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, cast

from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIRequest
from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase

from streams.http.response import EventStreamResponse
from streams.http.serving import Send
from streams.private.django_handler import ShortHandler, close_response
from streams.private.servers import sends_from_any_task

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class Exchange:
    """Call `begin()` and then await `serve()`, both in the server's task for the request."""

    __slots__ = (
        "__weakref__",
        "_content",
        "_context",
        "_handler",
        "_is_direct",
        "_is_over",
        "_is_receiving",
        "_receive",
        "_response",
        "_send",
        "_server_task",
        "_working",
    )

    def __init__(self, handler: ShortHandler, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handler = handler
        self._receive = receive
        self._send = send
        self._is_direct = sends_from_any_task(send)
        self._server_task: asyncio.Task[Any] = task
        self._context = contextvars.copy_context()
        self._working: asyncio.Task[None] | None = None
        self._content: Any = None  # the iterator of a stream
        self._response: HttpResponseBase | None = None  # only as long as it is needed
        self._is_receiving = False
        self._is_over = False

    # --- The server's task ---

    def begin(self, request: ASGIRequest | None, refusal: HttpResponseBase | None) -> None:
        """Start to answer the request, or to send the refusal of one that Django could not read."""
        self._work(self._answer(request, refusal))

    async def serve(self) -> None:
        """Wait until the client has left or the response has ended, and release everything."""
        self._is_receiving = not self._is_over
        try:
            while self._is_receiving and (await self._receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            # This object cancels the server's task only to wake it. Otherwise the server has cancelled it.
            if not self._is_over or self._server_task.uncancel():
                raise
        finally:
            self._is_receiving = False
            self._is_over = True
            await self._close()

    async def _close(self) -> None:
        working, self._working = self._working, None
        if working is not None and not working.done():
            working.cancel()
            await asyncio.wait([working])
        content, self._content = self._content, None
        if (close := getattr(content, "aclose", None)) is not None:
            await close()
        response, self._response = self._response, None
        if response is not None:
            close_response(response)
        error = None if working is None or working.cancelled() else working.exception()
        if error is not None and not isinstance(error, RequestAborted):
            raise error

    # --- A Serving, for EventStreamResponse ---

    def done(self) -> bool:
        return self._is_over

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._server_task.get_loop()

    def cancel(self, msg: object = None) -> bool:
        """End the request where it is. The response stays incomplete."""
        if self._is_over:
            return False
        self._is_over = True
        if self._is_receiving:
            self._is_receiving = False
            self._server_task.cancel()
        return True

    # --- The work ---

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        self._working = self.get_loop().create_task(work, context=self._context)
        self._working.add_done_callback(self._on_worked)

    def _on_worked(self, task: asyncio.Task[None]) -> None:
        if task is self._working:  # otherwise _close() has taken it
            if task.cancelled() or task.exception() is not None:
                self.cancel()
            else:
                self._working = None

    async def _answer(self, request: ASGIRequest | None, response: HttpResponseBase | None) -> None:
        if request is not None:
            response = await self._handler.run_get_response(request)
        assert response is not None
        if not isinstance(response, StreamingHttpResponse):
            self._response = response
            await self._handler.send_response(response, cast(Any, self._send))
            self.cancel()
            return
        if isinstance(response, EventStreamResponse):
            response.serve_by(self, self._send if self._is_direct else None)
        content = aiter(response)
        self._content = content
        if not (isinstance(response, EventStreamResponse) and response.is_plain):
            self._response = response  # middleware has wrapped it
        await self._send(_start_of(response))
        del request, response  # a stream does not need them any more
        await self._pass_on(None)

    async def _pass_on(self, step: Awaitable[bytes] | None) -> None:
        """Send the stream's chunks. If the next one is a future, and nothing else is to be done, return."""
        content = self._content
        while True:
            try:
                if step is None:
                    step = anext(content)
                if self._is_direct and isinstance(step, asyncio.Future) and not step.done():
                    # Not in this context: a loop with eager tasks enters it when the callback starts a task.
                    step.add_done_callback(self._on_chunk)
                    return
                chunk = await step
            except StopAsyncIteration:
                break
            step = None
            # As chunk_bytes() of Django's handler: other views of a site can yield large chunks.
            for part, _ in self._handler.chunk_bytes(chunk):
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
        await self._send({"type": "http.response.body"})
        self.cancel()

    def _on_chunk(self, step: asyncio.Future[bytes]) -> None:
        """Send on: the future has a chunk, such as a heartbeat, or the stream has ended."""
        if self._is_over:
            if not step.cancelled():
                step.exception()  # so that asyncio does not log it
            return
        self._work(self._pass_on(step))


def _start_of(response: HttpResponseBase) -> Message:
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
    headers += [
        (b"Set-Cookie", cookie.output(header="").encode("ascii").strip()) for cookie in response.cookies.values()
    ]
    return {"type": "http.response.start", "status": response.status_code, "headers": headers}
