"""Internals of Django's ASGI handler: a handler with a chain of middleware of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import ResolverMatch, get_resolver
from django.urls.exceptions import Resolver404

from streams.private import report_missing

GetResponse = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

# Makes middleware around an async get_response. It gives the same result as a middleware class of Django's.
Layer = Callable[[GetResponse], GetResponse]

_INTERNALS = ("_get_response_async", "_middleware_chain", "_view_middleware", "get_response_async", "resolve_request")


class ShortHandler(ASGIHandler):
    """Django's handler with other middleware than settings.MIDDLEWARE, and a view that was found before.

    The rest of Django's code runs: the view, its exceptions, the error pages, the log of refused requests. Seen in
    Django 5.2 to 6.1 (BaseHandler._middleware_chain, _get_response_async, _view_middleware and its two siblings). A
    public way to give a handler its middleware would make it unnecessary. If one is missing, see is_available().
    """

    def __init__(self, layers: Sequence[Layer], *, resolve_again: bool) -> None:
        self._layers = layers
        self._resolve_again = resolve_again
        super().__init__()

    def load_middleware(self, is_async: bool = True) -> None:
        own: Any = self  # the stubs do not know the internals
        own._view_middleware, own._template_response_middleware, own._exception_middleware = [], [], []
        convert: Any = convert_exception_to_response
        chain = convert(own._get_response_async)
        for layer in reversed(self._layers):
            chain = convert(layer(chain))
        own._middleware_chain = chain

    def resolve_request(self, request: HttpRequest) -> ResolverMatch:
        """Return the view that was found before. Translated URLs are resolved again, in the request's language.

        If they lead to another view then, that view is not called: it was not admitted to this way.
        """
        match = request.resolver_match
        assert match is not None
        if self._resolve_again and get_resolver().resolve(request.path_info).func is not match.func:
            raise Resolver404({"path": request.path_info, "tried": []})
        return match


def is_available() -> bool:
    """Return True if Django has the internals that ShortHandler needs. If not, streams take Django's way."""
    missing = [name for name in _INTERNALS if not hasattr(BaseHandler, name)]
    for name in missing:
        report_missing("Django", f"BaseHandler.{name}", "Streams are opened through all middleware.")
    return not missing


def close_response(response: HttpResponseBase) -> None:
    """Close what belongs to a response, without the signal request_finished, because request_started was not sent.

    Seen in Django 5.2 to 6.1 (HttpResponseBase._resource_closers). If it is missing, nothing is closed here.
    """
    for close in getattr(response, "_resource_closers", ()):
        close()
