"""Refusals that pass are sent as a status or as an event: who gets which, and what the event is."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from django.db import OperationalError
from django.http import HttpRequest
from django.test import override_settings

from streams import apublish
from streams.delivery.hub import Hub
from streams.delivery.subscriber import open_streams
from streams.policies import BasePolicy
from streams.presence import counter
from streams.telemetry import recorder
from tests.http.test_unfinished import is_completed
from tests.views.support import PUBLIC, Opening, by_asgi, refusal

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.views.urls"),
]

BROWSER = {"Accept": "text/event-stream"}
SETTING = "STREAMS['MAX_STREAMS_PER_PROCESS']"


@pytest_asyncio.fixture
async def full() -> AsyncIterator[dict[str, Any]]:
    """Let this process serve as many streams as it may, and yield its STREAMS with REFUSE_IN_BAND."""
    gc.collect()  # remove the streams of other tests, whose event loops are closed
    streams = {**PUBLIC, "MAX_STREAMS_PER_PROCESS": open_streams() + 1, "REFUSE_IN_BAND": True}
    with override_settings(STREAMS=streams):
        async with by_asgi("/events/news/") as first:
            await first.take(1)
            yield streams


async def test_limit_is_sent_as_event(full: dict[str, Any], opening: Opening) -> None:
    async with opening("/events/news/?last_event_id=7", headers=BROWSER) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-cache, no-transform"
        [(event, position, data)] = await stream.take(2)  # it ends after one
        assert (event, position) == ("stream-error", "")
        text = f"This process serves its {full['MAX_STREAMS_PER_PROCESS']} streams ({SETTING}). Try again later."
        assert json.loads(data) == {"code": "too-many-streams", "message": text}
        assert stream.retry is not None
        assert 5000 <= stream.retry <= 7500, "Retry-After, with jitter"
        assert b"\nid:" not in stream.raw, "the client keeps its cursor"


async def test_refusal_in_band_is_counted(full: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(recorder.current, "refused", lambda code: calls.append((code,)), raising=False)
    monkeypatch.setattr(recorder.current, "stream_ended", lambda *ended: calls.append(ended), raising=False)
    async with by_asgi("/events/news/", headers=BROWSER) as stream:
        await stream.take(2)
    assert calls == [("too-many-streams",), ("iterator", "lifetime")]


@pytest.mark.parametrize(
    ("query", "accept", "setting", "status"),
    [
        ("", "text/event-stream", True, 200),
        ("", "text/event-stream, text/html, application/json", True, 200),
        ("", "*/*", True, 429),
        ("", "", True, 429),
        ("", "text/event-stream", False, 429),
        ("?refuse=event", "*/*", False, 200),
        ("?refuse=event", "*/*", True, 200),
        ("?refuse=status", "text/event-stream", True, 429),
    ],
)
async def test_query_header_and_setting_decide(
    full: dict[str, Any], query: str, accept: str, setting: bool, status: int
) -> None:
    headers = {"Accept": accept} if accept else {}
    with override_settings(STREAMS={**full, "REFUSE_IN_BAND": setting}):
        for method in ("GET", "HEAD"):
            async with by_asgi(f"/events/news/{query}", method=method, headers=headers) as answer:
                assert answer.status == status
                assert ("retry-after" in answer.headers) is (status == 429)


async def test_refusal_takes_no_slot_and_no_query(full: dict[str, Any], queries: list[str]) -> None:
    with counter.slots() as slots:
        taken = slots.total()
    before = open_streams()
    async with by_asgi("/events/news/", headers=BROWSER) as stream:
        await stream.take(1)
        assert open_streams() == before
        with counter.slots() as slots:
            assert slots.total() == taken
    assert [sql for sql in queries if "streams_message" in sql or "streams_loghead" in sql] == []


class AwayPolicy(BasePolicy):
    """A policy that queries a database that does not answer."""

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        raise OperationalError("the server at db.example does not answer")


@override_settings(STREAMS={"POLICY": f"{__name__}.AwayPolicy", "REFUSE_IN_BAND": True})
async def test_undecided_policy_is_sent_as_event() -> None:
    async with by_asgi("/events/news/", headers=BROWSER) as stream:
        [(event, position, data)] = await stream.take(2)
        assert (event, position, json.loads(data)["code"]) == ("stream-error", "", "undecided")
        assert b"db.example" not in stream.raw
    assert Hub.running() is None


@pytest.mark.parametrize(
    ("url", "status"),
    [("/events/", 400), ("/events/news/?end=x", 400), ("/events/secret/", 403), ("/events/a%2Fb", 404)],
)
@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"], "REFUSE_IN_BAND": True})
async def test_lasting_refusal_stays_status(url: str, status: int) -> None:
    """An EventSource that came back would be refused again."""
    for address in (url, f"{url}{'&' if '?' in url else '?'}refuse=event"):
        async with by_asgi(address, headers=BROWSER) as answer:
            assert answer.status == status


@override_settings(STREAMS=PUBLIC)
async def test_unknown_way_is_refused(opening: Opening) -> None:
    async with opening("/events/news/?refuse=quietly") as answer:
        assert await refusal(answer) == (400, "invalid-refuse", "refuse is status or event; got 'quietly'.")


@pytest.mark.parametrize(("query", "completed"), [("", True), ("&end=clean", True), ("&end=error", False)])
async def test_refusal_ends_as_asked(full: dict[str, Any], query: str, completed: bool) -> None:
    """A client on fetch that has `end=error` in its URL takes a clean end as the end of the stream."""
    assert await is_completed(f"/events/news/?refuse=event{query}") is completed


async def test_client_goes_on_after_refusal(full: dict[str, Any]) -> None:
    await apublish("news", "one")
    async with by_asgi("/events/news/?last_event_id=0", headers=BROWSER) as stream:
        assert (await stream.take(1))[0][0] == "stream-error"
    with override_settings(STREAMS=PUBLIC):
        async with by_asgi("/events/news/?last_event_id=0", headers=BROWSER) as stream:
            assert [data for event, _, data in await stream.take(2) if event == "message"] == ["one"]
