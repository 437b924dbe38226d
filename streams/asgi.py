"""The ASGI application for sites that stream: Django's own, with the backpressure that daphne lacks, and without tokens
in daphne's access log.

Every other part of Streams works under `django.core.asgi.get_asgi_application()` as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, cast

import django.core.asgi

from streams.redaction import hide

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def get_asgi_application() -> Application:
    """Django's ASGI application, for `project/asgi.py`. On daphne, `send` waits while the client does not read."""
    return with_backpressure(cast(Application, django.core.asgi.get_asgi_application()))


def with_backpressure(app: Application) -> Application:
    """Make daphne's `send` wait while a client does not read; other servers' does already and is left as it is.

    daphne hands what it is sent to Twisted's transport, which buffers without a bound (seen in daphne 4.2). Twisted has
    the remedy: a producer that is registered with the request is told to pause when the transport's buffer is full.
    """

    async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        request = _twisted_request(send)
        if scope["type"] != "http" or request is None:
            await app(scope, receive, send)
            return
        # daphne writes its access log by itself, and not by Python's logging, which redaction.py filters. It has taken
        # path and query out of this by now, and needs it for that log alone (seen in daphne 4.2).
        request.uri = hide(request.uri.decode("latin-1")).encode("latin-1", "replace")
        pressure = _Backpressure(request, send)
        try:
            await app(scope, receive, pressure.send)
        finally:
            pressure.finish()

    return application


def _twisted_request(send: Send) -> Any:
    """daphne's request, a Twisted IConsumer, which its `send` is bound to; None on other servers."""
    bound = send.args[0] if isinstance(send, partial) and send.args else None
    return bound if hasattr(bound, "registerProducer") and hasattr(bound, "unregisterProducer") else None


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
        elif message.get("more_body") and not self._registered and self._channel is not None:
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
        if self._started and not self._complete and self._channel is not None:
            self._channel.transport.abortConnection()

    @property
    def _channel(self) -> Any:
        """Twisted's end of the connection; None once the client has left, which has taken the registration with it."""
        return getattr(self._request, "channel", None)

    def _unregister(self) -> None:
        if self._registered:
            self._registered = False
            if self._channel is not None:
                self._request.unregisterProducer()

    # --- IPushProducer ---

    def pauseProducing(self) -> None:
        self._room.clear()

    def resumeProducing(self) -> None:
        self._room.set()

    def stopProducing(self) -> None:
        self._room.set()
