"""The ASGI application of the direct way: it answers requests for streams, and leaves all others to Django."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any

from asgiref.sync import ThreadSensitiveContext, iscoroutinefunction
from django.conf import settings as django_settings
from django.core.handlers.asgi import get_script_prefix
from django.urls import ResolverMatch, get_resolver, set_script_prefix

from streams.direct import middleware
from streams.direct.exchange import Exchange
from streams.private.django_handler import ShortHandler
from streams.views import EventStreamView

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]

METHODS = frozenset(("GET", "HEAD", "OPTIONS"))

BODY_HEADERS = (b"content-length", b"transfer-encoding")


def with_direct_streams(app: Application, skip_middleware: Collection[str]) -> Application:
    """Answer requests for an EventStreamView here, and pass all others to `app`, which is Django's application."""
    resolve_again = middleware.LOCALE in django_settings.MIDDLEWARE
    handler = ShortHandler(middleware.layers(skip_middleware), resolve_again=resolve_again)
    login_required = middleware.LOGIN_REQUIRED in django_settings.MIDDLEWARE

    async def application(scope: Scope, receive: Any, send: Any) -> None:
        match = find_stream(scope)
        if match is None or (login_required and getattr(match.func, "login_required", True)):
            await app(scope, receive, send)
            return
        # A thread that sync code of the policy or of the view takes belongs to this request, and ends with it.
        async with ThreadSensitiveContext():
            if (prefix := get_script_prefix(scope)) not in ("", "/"):  # the default
                set_script_prefix(prefix)
            request, refusal = handler.create_request(scope, io.BytesIO())
            if request is not None:
                request.resolver_match = match
            exchange = Exchange(handler, receive, send)
            del match  # this frame lives as long as the stream
            exchange.begin(request, refusal)
            del request, refusal
            await exchange.serve()

    return application


def find_stream(scope: Mapping[str, Any]) -> ResolverMatch | None:
    """Return the match of a request's URL if a stream is there that this way can serve."""
    if scope["type"] != "http" or scope["method"].upper() not in METHODS or _has_body(scope):
        return None
    try:
        match = get_resolver().resolve(scope["path"].removeprefix(get_script_prefix(scope)))
    except Exception:  # usually Resolver404; a converter can raise anything. Django answers it
        return None
    view_class = getattr(match.func, "view_class", None)
    is_stream = isinstance(view_class, type) and issubclass(view_class, EventStreamView)
    if not is_stream or not iscoroutinefunction(match.func):  # a sync decorator
        return None
    match.tried = None  # a list of all patterns before it; only Django's page for 404 reads it
    return match


def _has_body(scope: Mapping[str, Any]) -> bool:
    """Return True if a request has a body: no client of a stream sends one, so that it is not read here."""
    return any(name in BODY_HEADERS and value != b"0" for name, value in scope["headers"])
