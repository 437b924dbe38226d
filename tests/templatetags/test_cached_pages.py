"""{% stream_url %} in cached pages: its URL has the page's cursor, or no cursor if the tag sets `replay`."""

from __future__ import annotations

import html
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.template import Context, RequestContext, Template, TemplateSyntaxError
from django.test import AsyncClient, Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import clear_url_caches, path
from django.views.decorators.cache import cache_page

from streams import apublish
from streams.testing import read_events
from tests.support.urls import urlpatterns

pytestmark = pytest.mark.django_db(transaction=True)


def _page(tag: str) -> Any:
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(Template("{% load streams cache %}" + tag).render(RequestContext(request)))

    return view


TAGS = {
    "cursor": '{% stream_url "news" %}',
    "none": '{% stream_url "news" replay=0 %}',
    "two": '{% stream_url "news" replay=2 %}',
}
URLS: Any = ModuleType("urls_with_cached_pages")
URLS.urlpatterns = [
    *(path(f"page/{name}/", cache_page(600)(_page(tag))) for name, tag in TAGS.items()),
    *(
        path(f"fragment/{name}/", _page(f"{{% cache 600 fragment_{name} %}}{tag}{{% endcache %}}"))
        for name, tag in TAGS.items()
    ),
    *urlpatterns,
]


@pytest.fixture(autouse=True)
def _site() -> Iterator[None]:
    cache.clear()
    with override_settings(ROOT_URLCONF=URLS, STREAMS={"PUBLIC_CHANNELS": ["news"]}):
        yield
    cache.clear()
    clear_url_caches()


async def visit(page: str) -> str:
    """Return the stream's URL that a visitor gets in this page."""
    response = await sync_to_async(Client().get)(page)
    return html.unescape(response.content.decode())


async def received_data(url: str, count: int) -> list[str]:
    """Connect, publish one message, and return the data of the first `count` events."""
    response = await AsyncClient().get(url)
    await apublish("news", "live")
    return [event.data for event in await read_events(response, count)]


@pytest.mark.parametrize("kind", ["page", "fragment"])
async def test_cursor_of_a_cached_page_closes_the_gap_since_it_was_rendered(kind: str) -> None:
    await apublish("news", "in the page's data")
    first = await visit(f"/{kind}/cursor/")
    for number in (1, 2, 3):
        await apublish("news", number)
    later = await visit(f"/{kind}/cursor/")
    assert later == first == "/events/news/?last_event_id=1"
    assert await received_data(later, 4) == ["1", "2", "3", "live"]


@pytest.mark.parametrize("kind", ["page", "fragment"])
@pytest.mark.parametrize(
    ("name", "url", "expected"),
    [
        ("none", "/events/news/", ["live"]),
        ("two", "/events/news/?replay=2", ["2", "3", "live"]),
    ],
)
async def test_cached_page_without_a_cursor_replays_no_more_than_it_asks_for(
    kind: str, name: str, url: str, expected: list[str]
) -> None:
    assert await visit(f"/{kind}/{name}/") == url
    for number in (1, 2, 3):
        await apublish("news", number)
    assert await visit(f"/{kind}/{name}/") == url
    assert await received_data(url, len(expected)) == expected


async def test_visitor_without_a_cursor_goes_on_exactly_when_it_reconnects() -> None:
    url = await visit("/page/two/")
    await apublish("news", 1)
    response = await AsyncClient().get(url)
    [event] = await read_events(response, 1)
    for number in (2, 3, 4):
        await apublish("news", number)
    again = await AsyncClient().get(url, headers={"Last-Event-ID": event.id})
    assert [event.data for event in await read_events(again, 3)] == ["2", "3", "4"]


def test_url_without_a_cursor_costs_no_query() -> None:
    with CaptureQueriesContext(connection) as captured:
        Template('{% load streams %}{% stream_url "news" replay=5 %}').render(Context())
    assert len(captured) == 0


@pytest.mark.parametrize("replay", ["-1", '"5"', "1001", "1.5", "True"])
def test_wrong_replay_names_the_limit(replay: str) -> None:
    with pytest.raises(TemplateSyntaxError, match=r"replay must be a whole number from 0 to 1000"):
        Template(f'{{% load streams %}}{{% stream_url "news" replay={replay} %}}').render(Context())
