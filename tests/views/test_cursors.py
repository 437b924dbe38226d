"""The cursor in a stream's URL: the spellings of the client libraries, and their precedence."""

from __future__ import annotations

import pytest
from django.test import AsyncClient, AsyncRequestFactory, override_settings
from django.urls import reverse

from streams import apublish
from streams.relay.generations.stream import GenerationEvents
from streams.relay.models import Generation
from streams.testing import read_events
from streams.views import EventStreamView

transactional = pytest.mark.django_db(transaction=True)

# reconnecting-eventsource 1.6.5, also as bundled by django-eventstream 5.3.4, appends to the page's URL:
# (url has "?" ? "&" : "?") + "lastEventId=" + encodeURIComponent(id). So does the EventSource polyfill in the latter,
# and adds "&r=" with a random number.
RECONNECTING = "lastEventId={}"
POLYFILL = "lastEventId={}&r=08734"


@transactional
@override_settings(STREAMS={"PUBLIC_CHANNELS": ["*"]})
@pytest.mark.parametrize(
    "query",
    [
        RECONNECTING,
        POLYFILL,
        "lastEventID={}",
        "last_event_id={}",
        "Last-Event-ID={}",
        "last-event-id={}",
        "last_event_id=1&lastEventId={}",  # the first from {% stream_url %}, the second from the client
        "lastEventId={}&last_event_id=1",
        "lastEventId=1&lastEventId={}",  # one client wraps another, and both append a cursor
        "lastEventId={}&lastEventId=",
        "lastEventId=%20&last_event_id={}",
    ],
)
async def test_cursor_in_the_url_counts(query: str) -> None:
    for number in range(1, 5):
        await apublish("news", number)
    for path in ("/events/news/?", "/events/?channel=news&"):
        response = await AsyncClient().get(path + query.format(2))
        assert [event.data for event in await read_events(response, 2)] == ["3", "4"]


@transactional
@override_settings(STREAMS={"PUBLIC_CHANNELS": ["*"]})
async def test_header_wins_over_every_spelling() -> None:
    for number in range(1, 5):
        await apublish("news", number)
    url = "/events/news/?lastEventId=1&last_event_id=1&Last-Event-ID=1"
    response = await AsyncClient().get(url, headers={"Last-Event-ID": "3"})
    assert [event.data for event in await read_events(response, 1)] == ["4"]


@transactional
@override_settings(STREAMS={"PUBLIC_CHANNELS": ["*"]})
async def test_malformed_cursor_is_answered_with_a_reset() -> None:
    await apublish("news", 1)
    response = await AsyncClient().get("/events/news/?lastEventId=abc")
    [reset] = [e for e in await read_events(response, 2, control=True) if e.event == "stream-reset"]
    assert '"malformed-id"' in reset.data


def test_streams_of_generations_take_the_same_cursors() -> None:
    request = AsyncRequestFactory().get(reverse("streams_relay:generation-events", args=["0" * 32]), {"lastEventId": 7})
    view = GenerationEvents()
    view._generation = Generation(start_position=3)
    assert isinstance(view, EventStreamView)
    assert view.get_cursor(request) == "7"
