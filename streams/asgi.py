"""The ASGI application for sites that stream: Django's own, with an answer to the lifespan protocol, with the
backpressure that daphne lacks, and without tokens in daphne's access log.

Every other part of Streams works under `django.core.asgi.get_asgi_application()` as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

import django.core.asgi

from streams.private.daphne import abort, is_connected, replace_uri, twisted_request
from streams.redaction import hide

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def get_asgi_application() -> Application:
    """Django's ASGI application, for `project/asgi.py`. On daphne, `send` waits while the client does not read."""
    return with_lifespan(with_backpressure(cast(Application, django.core.asgi.get_asgi_application())))


def with_lifespan(app: Application) -> Application:
    """Answer the lifespan protocol, which Django's application raises ValueError for.

    Servers report that exception as a warning, and error trackers as an error, at each start. There is nothing to do in
    it: a process starts its hub with its first stream, and `shutdown` comes too late to end streams (see shutdown.py).
    """

    async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    return application


def with_backpressure(app: Application) -> Application:
    """Make daphne's `send` wait while a client does not read; other servers' does already and is left as it is.

    daphne hands what it is sent to Twisted's transport, which buffers without a bound. Twisted has
    the remedy: a producer that is registered with the request is told to pause when the transport's buffer is full.
    """

    async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        request = twisted_request(send) if scope["type"] == "http" else None
        if request is None:
            await app(scope, receive, send)
            return
        replace_uri(request, hide)
        pressure = _Backpressure(request, send)
        try:
            await app(scope, receive, pressure.send)
        finally:
            pressure.finish()

    return application


class _Backpressure:
    """A Twisted IPushProducer that lets `send` through while the transport has room."""

    def __init__(self, request: Any, send: Send) -> None:
        self._request = request
        self._send = send
        self._room = asyncio.Event()
        self._room.set()
        self._registered = False
        self._started = False
        self._complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
        elif message.get("more_body") and not self._registered and is_connected(self._request):
            self._registered = True
            self._request.registerProducer(self, True)
        # Before the registration ends as well: nobody would tell us of room after it.
        await self._room.wait()
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._complete = True
            self._unregister()  # Twisted wants that before the request is finished
        await self._send(message)

    def finish(self) -> None:
        """The application has returned. A response that it left unfinished, as for a client that was cut, is aborted:
        daphne itself would keep such a connection open."""
        self._unregister()
        if self._started and not self._complete:
            abort(self._request)

    def _unregister(self) -> None:
        if self._registered:
            self._registered = False
            if is_connected(self._request):
                self._request.unregisterProducer()

    # --- IPushProducer ---

    def pauseProducing(self) -> None:
        self._room.clear()

    def resumeProducing(self) -> None:
        self._room.set()

    def stopProducing(self) -> None:
        self._room.set()
