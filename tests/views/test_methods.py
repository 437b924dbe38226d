"""HTTP methods other than GET."""

from __future__ import annotations

import gc

import pytest
from django.test import override_settings

from streams.delivery.hub import Hub
from streams.delivery.subscriber import open_streams
from tests.views.support import Opening, refusal, without_access_rules

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.views.urls"),
    pytest.mark.usefixtures("public_channels"),
]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"])
@pytest.mark.parametrize("url", ["/events/news/", "/events/?channel=news"])
async def test_other_methods_are_refused(opening: Opening, method: str, url: str) -> None:
    token = "t" * 32  # otherwise CsrfViewMiddleware refuses unsafe methods before the view is called
    async with opening(url, method=method, headers={"cookie": f"csrftoken={token}", "x-csrftoken": token}) as answer:
        assert await refusal(answer) == (405, "method-not-allowed", f"A stream is read with GET; got {method}.")
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


async def test_options_lists_the_methods(opening: Opening) -> None:
    async with opening("/events/news/", method="OPTIONS") as answer:
        assert answer.status == 200
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
        assert await answer.rest() == b""
    assert Hub.running() is None


async def test_head_opens_no_stream(opening: Opening, queries: list[str]) -> None:
    """It has the status and headers of GET."""
    gc.collect()  # remove the streams of other tests, whose event loops are closed
    before = open_streams()
    async with opening("/events/news/", method="HEAD") as answer:
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache, no-transform"
        assert await answer.rest() == b""
    assert open_streams() == before
    assert Hub.running() is None
    assert without_access_rules(queries) == []


@override_settings(STREAMS={"PUBLIC_CHANNELS": []})
async def test_head_is_refused_like_get(opening: Opening) -> None:
    for url, status in (("/events/news/", 403), ("/events/", 400), ("/events/a*/", 400)):
        async with opening(url, method="HEAD") as answer:
            assert answer.status == status
            assert await answer.rest() == b""
