"""The recommended ASGI application: Django's, plus four additions.

It answers the lifespan protocol, passes live messages to the server without waking a task for each client, adds the
backpressure that daphne lacks, and keeps tokens out of daphne's access log. All other features also work under
`django.core.asgi.get_asgi_application()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, cast

import django.core.asgi

from streams.private.daphne import abort, is_connected, replace_uri, twisted_request
from streams.private.django_handler import is_available
from streams.private.servers import DIRECT_SEND, sends_from_any_task
from streams.redaction import hide

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def get_asgi_application(
    app: Application | None = None, *, direct: bool = False, skip_middleware: Collection[str] = ()
) -> Application:
    """Return the ASGI application, for the `application` variable of your project's asgi.py.

    Args:
        app: Django's ASGI application inside of other ASGI middleware, such as OpenTelemetry's, or inside of a router.
            Default: Django's application alone. If the other middleware were outside, daphne's backpressure would be
            lost. Middleware gets to see each chunk of a stream, so that a task for each client sends them.
        direct: Answer requests for an EventStreamView in front of Django's handler, which makes opening a stream about
            three times cheaper. Django's own middleware and async middleware have their usual effect; the signals
            request_started and request_finished are not sent. See docs/operations/direct.md.
        skip_middleware: With `direct`, the dotted names of other middleware in MIDDLEWARE that streams do without. If
            one is not named, ImproperlyConfigured is raised: it could be the one that refuses requests.
    """
    if app is not None and direct:
        raise ValueError(
            "direct=True answers streams in front of Django, so that they would not pass through `app`. Use this "
            "application inside of yours: ProtocolTypeRouter({'http': get_asgi_application(direct=True), …})."
        )
    if skip_middleware and not direct:
        raise ValueError("skip_middleware applies to direct=True only. Otherwise streams pass through all middleware.")
    if isinstance(skip_middleware, str):
        raise ValueError(f"skip_middleware is a list of dotted names; got the text {skip_middleware!r}.")
    if app is None:
        app = with_direct_sends(cast(Application, django.core.asgi.get_asgi_application()))
    if direct and is_available():
        from streams.direct.application import with_direct_streams  # needs the apps, which are ready by now

        app = with_direct_streams(app, skip_middleware)
    return with_lifespan(with_backpressure(app))


def with_direct_sends(app: Application) -> Application:
    """Let streams call the server's `send`, if that is safe. Nothing may be between this and Django's application."""

    async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and sends_from_any_task(send):
            scope = {**scope, DIRECT_SEND: send}  # a copy: the server's own scope would become part of a cycle
        await app(scope, receive, send)

    return application


def with_lifespan(app: Application) -> Application:
    """Answer the lifespan protocol. Django's application raises ValueError for it.

    Servers log that exception as a warning at each start, and error trackers report it. Streams needs no lifespan
    events: a process starts its hub with its first stream, and `shutdown` comes too late to end streams (see
    http/shutdown.py).
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
    """Make daphne's `send` wait while a client does not read. The `send` of other servers waits already.

    daphne passes all data to Twisted's transport, whose buffer has no limit. Twisted offers a remedy: a producer that
    is registered with the request is paused when the transport's buffer is full.
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
    """A Twisted IPushProducer. Its `send` waits while the transport's buffer is full."""

    def __init__(self, request: Any, send: Send) -> None:
        self._request = request
        self._send = send
        self._room = asyncio.Event()
        self._room.set()
        self._registered = self._started = self._complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
        elif message.get("more_body") and not self._registered and is_connected(self._request):
            self._registered = True
            self._request.registerProducer(self, True)
        # Before the producer is unregistered, because Twisted calls resumeProducing() on registered producers only.
        await self._room.wait()
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._complete = True
            self._unregister()  # Twisted requires this before the request is finished
        await self._send(message)

    def finish(self) -> None:
        """Clean up when the application has returned.

        An incomplete response, such as that of a client that was cut, is aborted. daphne would keep its connection
        open.
        """
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

    stopProducing = resumeProducing
