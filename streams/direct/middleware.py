"""The middleware of the direct way: Django's own runs on the event loop, and other middleware is kept or skipped.

Django runs each sync middleware in a thread, which costs most of the time of opening a stream. The hooks of Django's
own middleware that are listed here only read the request and write headers, so that they can run on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured, MiddlewareNotUsed
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.deprecation import MiddlewareMixin
from django.utils.module_loading import import_string

from streams.private.django import has_new_messages
from streams.private.django_handler import GetResponse, Layer

LOCALE = "django.middleware.locale.LocaleMiddleware"
LOGIN_REQUIRED = "django.contrib.auth.middleware.LoginRequiredMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"


def _never(request: HttpRequest) -> bool:
    return False


def _saves_session(request: HttpRequest) -> bool:
    session = getattr(request, "session", None)
    return session is not None and (session.modified or django_settings.SESSION_SAVE_EVERY_REQUEST)


# Django's middleware whose hooks run on the event loop. The function returns True if the response's hook would query
# the database or another store; then it runs in a thread, as Django does it.
ON_EVENT_LOOP: dict[str, Callable[[HttpRequest], bool]] = {
    "django.contrib.auth.middleware.AuthenticationMiddleware": _never,
    "django.contrib.messages.middleware.MessageMiddleware": has_new_messages,
    "django.contrib.sessions.middleware.SessionMiddleware": _saves_session,
    "django.middleware.clickjacking.XFrameOptionsMiddleware": _never,
    "django.middleware.common.CommonMiddleware": _never,
    "django.middleware.csp.ContentSecurityPolicyMiddleware": _never,
    CSRF: _never,
    LOCALE: _never,
    "django.middleware.security.SecurityMiddleware": _never,
}

# Middleware that does nothing for a stream, so that it can be skipped. LoginRequiredMiddleware refuses views, but
# views that it would refuse are left to Django (see application.py).
WITHOUT_EFFECT = {
    LOGIN_REQUIRED,
    "django.middleware.gzip.GZipMiddleware",
    "django.middleware.http.ConditionalGetMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
}

_OTHER_HOOKS = ("process_view", "process_exception", "process_template_response")


def layers(skipped: Collection[str]) -> list[Layer]:
    """Return the middleware for streams, the outermost first.

    Raise ImproperlyConfigured if MIDDLEWARE has an entry that would not run and that is not in `skipped`: it could be
    the one that authenticates users or refuses requests.
    """
    found: list[Layer] = []
    unknown = []
    for name in django_settings.MIDDLEWARE:
        if name in skipped or name in WITHOUT_EFFECT or (name == CSRF and django_settings.CSRF_USE_SESSIONS):
            continue  # CSRF_USE_SESSIONS: the hook reads the session. It never refuses GET, HEAD or OPTIONS
        factory = import_string(name)
        if name in ON_EVENT_LOOP:
            found.append(_on_event_loop(factory, ON_EVENT_LOOP[name]))
        elif _is_async(factory):
            found.append(_unchanged(factory))
        else:
            unknown.append(name)
    if unknown:
        raise ImproperlyConfigured(
            "streams.asgi.get_asgi_application(direct=True) opens streams without this middleware: "
            f"{', '.join(unknown)}. If streams can do without it, name it: skip_middleware={unknown!r}. If it decides "
            "who can read, or sets what your policy reads, remove direct=True."
        )
    return found


def _is_async(factory: Any) -> bool:
    """Return True if a middleware runs on the event loop by itself, as that of django-cors-headers does.

    A MiddlewareMixin calls its hooks in a thread.
    """
    if not getattr(factory, "async_capable", False) or any(hasattr(factory, hook) for hook in _OTHER_HOOKS):
        return False
    return not (isinstance(factory, type) and issubclass(factory, MiddlewareMixin))


def _unchanged(factory: Any) -> Layer:
    def layer(get_response: GetResponse) -> GetResponse:
        try:
            middleware: GetResponse = factory(get_response)
        except MiddlewareNotUsed:
            return get_response
        if not iscoroutinefunction(middleware):
            raise ImproperlyConfigured(f"{factory!r} is async_capable, but made middleware that is not async.")
        return middleware

    return layer


def _on_event_loop(factory: Any, needs_thread: Callable[[HttpRequest], bool]) -> Layer:
    def layer(get_response: GetResponse) -> GetResponse:
        middleware = factory(get_response)
        before = getattr(middleware, "process_request", None)
        after = getattr(middleware, "process_response", None)

        # As MiddlewareMixin does it, but without its threads.
        async def run(request: HttpRequest) -> HttpResponseBase:
            response: HttpResponseBase | None = None if before is None else before(request)
            if response is None:
                response = await get_response(request)
            if after is None:
                return response
            changed: HttpResponseBase
            changed = (
                await sync_to_async(after)(request, response) if needs_thread(request) else after(request, response)
            )
            return changed

        return run

    return layer
