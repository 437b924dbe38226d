"""`?end=error`: the response of a stream that is cut short is incomplete. See also servers/test_unfinished.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.test import AsyncClient, AsyncRequestFactory, override_settings
from django.urls import clear_url_caches, path

from streams import EventStreamResponse, apublish
from streams.views import EventStreamView

pytestmark = pytest.mark.django_db(transaction=True)

URLS: Any = ModuleType("urls_with_ends")
URLS.urlpatterns = [
    path("job/<str:channel>/", EventStreamView.as_view(final_events=["done"])),
    path("short/<str:channel>/", EventStreamView.as_view(timeout=0.3)),
]


@pytest.fixture(autouse=True)
def _site() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=URLS, STREAMS={"PUBLIC_CHANNELS": ["*"]}, MIDDLEWARE=[]):
        yield
    clear_url_caches()


async def is_completed(url: str, *, cursor: str = "0") -> bool:
    """Serve a stream to its end, as a server does. Return True if the last part of the body was sent."""
    scope = AsyncRequestFactory().get(url, headers={"Last-Event-ID": cursor}).scope
    server = ApplicationCommunicator(ASGIHandler(), {**scope, "asgi": {"version": "3.0"}})
    await server.send_input({"type": "http.request"})
    assert (await server.receive_output(10))["status"] == 200
    while not server.future.done() or not server.output_queue.empty():
        try:
            message = await server.receive_output(3)
        except TimeoutError:
            break
        if not message.get("more_body"):
            await server.wait(10)
            return True
    await server.wait(10)
    return False


@pytest.mark.parametrize(("query", "completed"), [("", True), ("?end=clean", True), ("?end=error", False)])
async def test_stream_that_is_cut_short(query: str, completed: bool) -> None:
    assert await is_completed(f"/short/news/{query}") is completed


@pytest.mark.parametrize("query", ["", "?end=error"])
async def test_final_event_always_ends_cleanly(query: str) -> None:
    await apublish("job.1", "the answer", event="done")
    assert await is_completed(f"/job/job.1/{query}")


@pytest.mark.parametrize("end", ["", "Error", "abort"])
async def test_other_ends_are_refused(end: str) -> None:
    response = await AsyncClient().get("/short/news/", {"end": end})
    assert response.status_code == 400
    assert response.json() == {
        "error": {"code": "invalid-end", "message": f"end is clean or error; got {end!r}."},
    }


async def test_response_refuses_other_ends() -> None:
    async def nothing() -> AsyncIterator[str]:
        return
        yield

    with pytest.raises(ValueError, match="end is 'clean' or 'error'; got 'abort'"):
        EventStreamResponse(nothing(), end="abort")
