"""Streams under WSGI and in Django's sync test client: an immediate error that names the remedy."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.test import AsyncClient, Client, RequestFactory

from streams import EventStreamResponse
from streams.http.response import NEEDS_ASGI, report_wsgi
from streams.testing import read_events

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
