"""Streams under WSGI and in Django's sync test client: an immediate error that names the remedy."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest
from django.test import AsyncClient, Client, RequestFactory
from django.urls import path

from streams import EventStreamResponse
from streams.http.response import NEEDS_ASGI, report_wsgi
from streams.testing import read_events
from streams.views import EventStreamView

PATHS = ["/test/response/numbers/?n=3", "/test/response/sync-numbers/?n=3"]


@pytest.fixture(autouse=True)
def _not_reported() -> Iterator[None]:
    report_wsgi.cache_clear()
    yield
    report_wsgi.cache_clear()


@pytest.mark.parametrize("path", PATHS)
def test_sync_client_sees_what_production_answers(db: None, path: str) -> None:
    response = Client().get(path)
    assert response.status_code == 500
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert b"".join(response) == NEEDS_ASGI.encode()
    assert response.wsgi_request.path == path.partition("?")[0]


def test_sync_client_sees_the_error_of_a_stream_of_the_log(db: None) -> None:
    response = Client().get("/events/news/")
    assert response.status_code == 500
    assert response.json() == {"error": {"code": "asgi-required", "message": NEEDS_ASGI}}


class _Subclass(EventStreamResponse):
    pass


class _Numbers(EventStreamView):
    def get_channels(self, request: HttpRequest, **kwargs: Any) -> list[str]:
        return ["news"]


async def _numbers() -> AsyncIterator[str]:
    yield "0"


def _wrapping(get_response: Any) -> Any:
    """A middleware that wraps the body, as many do."""

    async def wrapped(body: Any) -> AsyncIterator[bytes]:
        async for chunk in body:
            yield chunk

    def middleware(request: HttpRequest) -> Any:
        response = get_response(request)
        response.streaming_content = wrapped(response.streaming_content)
        return response

    return middleware


urlpatterns = [
    path("subclass/", lambda request: _Subclass(_numbers())),
    path("view/", _Numbers.as_view()),
]


@pytest.mark.urls(__name__)
@pytest.mark.parametrize("middleware", [[], [f"{__name__}._wrapping"]])
def test_subclasses_are_refused_too(db: None, settings: Any, middleware: list[str]) -> None:
    """A site's own response and view, also behind a middleware that wraps the body."""
    settings.MIDDLEWARE = middleware
    response = Client().get("/subclass/")
    assert (response.status_code, b"".join(response)) == (500, NEEDS_ASGI.encode())
    if not middleware:  # this one only takes streaming responses
        assert Client().get("/view/").json()["error"]["code"] == "asgi-required"


@pytest.mark.urls(__name__)
def test_async_client_works_beneath_a_sync_test(db: None, settings: Any) -> None:
    settings.MIDDLEWARE = []

    async def read() -> list[str]:
        return [event.data for event in await read_events(await AsyncClient().get("/subclass/"), 1)]

    assert async_to_sync(read)() == ["0"]


@pytest.mark.parametrize("path", PATHS)
async def test_async_client_reads_the_same_views(db: None, path: str) -> None:
    response = await AsyncClient().get(path)
    assert response.status_code == 200
    assert [event.data for event in await read_events(response, 3)] == ["0", "1", "2"]


def test_response_without_a_request_has_no_wsgi_request() -> None:
    async def nothing() -> Iterator[str]:
        return
        yield

    response = EventStreamResponse(nothing())
    assert not hasattr(response, "wsgi_request")


@pytest.mark.parametrize("path", ["/events/news/", PATHS[0]])
def test_reason_is_logged_once(db: None, caplog: pytest.LogCaptureFixture, path: str) -> None:
    """Without this record, the server's log would only contain the status 500."""
    for _ in range(3):
        environ = RequestFactory().get(path).environ
        list(WSGIHandler()(environ, lambda status, headers: None))
    records = [record for record in caplog.records if record.name == "streams" and record.levelno > logging.INFO]
    assert [(record.levelno, record.getMessage()) for record in records] == [(logging.ERROR, NEEDS_ASGI)]
