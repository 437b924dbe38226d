"""Which middleware the direct way accepts, and which requests it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import markcoroutinefunction
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.test import override_settings
from django.urls import path
from django.utils.deprecation import MiddlewareMixin

from streams.asgi import get_asgi_application
from streams.direct.application import find_stream, with_direct_streams
from streams.direct.middleware import layers
from streams.views import EventStreamView
from tests.views.support import by_asgi

HERE = __name__


class Sync(MiddlewareMixin):
    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        response.headers["X-Sync"] = "yes"
        return response


class Async:
    async_capable, sync_capable = True, False

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = await self.get_response(request)
        response.headers["X-Async"] = "yes"
        return response


class WithView(Async):
    async def process_view(self, *args: Any) -> None: ...


def sync_decorator(view: Any) -> Any:
    def wrapper(request: HttpRequest, **kwargs: Any) -> Any:
        return view(request, **kwargs)

    wrapper.view_class = view.view_class  # type: ignore[attr-defined]
    return wrapper


class Own(EventStreamView):
    pass


urlpatterns = [
    path("own/<str:channel>/", Own.as_view()),
    path("sync/<str:channel>/", sync_decorator(EventStreamView.as_view())),
    path("other/<str:channel>/", lambda request, channel: None),  # type: ignore[arg-type, return-value]
]


async def nothing(*args: Any) -> None: ...


@pytest.mark.parametrize("name", [f"{HERE}.Sync", f"{HERE}.WithView"])
def test_unknown_middleware_must_be_named(name: str) -> None:
    with override_settings(MIDDLEWARE=[name]):
        with pytest.raises(ImproperlyConfigured, match=f"skip_middleware=.'{name}'"):
            with_direct_streams(nothing, [])
        assert layers([name]) == []


class Subclass(SessionMiddleware):
    """It can do anything: only Django's own class is known."""


def test_subclass_of_known_middleware_is_unknown() -> None:
    with override_settings(MIDDLEWARE=[f"{HERE}.Subclass"]), pytest.raises(ImproperlyConfigured, match="Subclass"):
        layers([])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("skipped", "header"), [([], "yes"), ([f"{HERE}.Async"], None)])
async def test_async_middleware_is_kept(skipped: list[str], header: str | None) -> None:
    changed = {"MIDDLEWARE": [f"{HERE}.Async"], "ROOT_URLCONF": HERE, "STREAMS": {"PUBLIC_CHANNELS": ["news"]}}
    with override_settings(**changed):
        async with by_asgi("/own/news/", app=with_direct_streams(nothing, skipped)) as opened:
            assert (opened.status, opened.headers.get("x-async")) == (200, header)


def scope(url: str, **changed: Any) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": url, "headers": [], **changed}


@pytest.mark.urls(HERE)
@pytest.mark.parametrize(
    ("taken", "asked"),
    [
        (True, scope("/own/news/")),
        (True, scope("/own/news/", method="HEAD")),
        (True, scope("/under/own/news/", root_path="/under")),
        (True, scope("/own/news/", headers=[(b"content-length", b"0")])),
        (False, scope("/own/news/", method="POST")),
        (False, scope("/own/news/", headers=[(b"content-length", b"1")])),
        (False, scope("/own/news/", headers=[(b"transfer-encoding", b"chunked")])),
        (False, scope("/own/news/", type="websocket")),
        (False, scope("/sync/news/")),
        (False, scope("/other/news/")),
        (False, scope("/nowhere/")),
    ],
)
def test_requests_that_are_taken(taken: bool, asked: dict[str, Any]) -> None:
    assert (find_stream(asked) is not None) == taken


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"app": nothing, "direct": True}, "would not pass through `app`"),
        ({"skip_middleware": ["a.B"]}, "direct=True only"),
        ({"skip_middleware": "a.B", "direct": True}, "is a list"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        get_asgi_application(**arguments)
