"""{% stream_url %} renders the URL of a stream that starts at the cursor of the page."""

from __future__ import annotations

import html
import json
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.template import Context, Template, TemplateSyntaxError
from django.test import AsyncClient, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import set_script_prefix

from streams import NewMessage, apublish, log, publish, publish_many
from streams.exceptions import InvalidChannel
from streams.models import LogHead, Message
from streams.protocol.events import check
from streams.testing import read_events
from streams.tokens import make_token
from tests.support.sites import Site, finish

transactional = pytest.mark.django_db(transaction=True)


def render(tag: str, **context: Any) -> str:
    return Template("{% load streams %}" + tag).render(Context(context))


# --- The URL ----------------------------------------------------------------------------------------------------------


@transactional
async def test_token_goes_with_the_url_and_opens_it() -> None:
    token = make_token(read=["job.*"])
    for channels in ('"job.1"', '"job.1" "job.2"'):
        url = html.unescape(await sync_to_async(render)(f"{{% stream_url {channels} token=token %}}", token=token))
        response = await AsyncClient().get(url)
        assert response.status_code == 200
        await response.aclose()
    assert "token" not in await sync_to_async(render)('{% stream_url "job.1" token=none %}', none=None)


@transactional
def test_one_channel_has_a_url_of_its_own_with_the_head_as_cursor() -> None:
    publish_many([NewMessage("news", "a"), NewMessage("other", "b")])
    assert render('{% stream_url "news" %}') == "/events/news/?last_event_id=2"
    publish("other", "c")
    assert render('{% stream_url "news" %}') == "/events/news/?last_event_id=3"


@transactional
def test_several_channels_share_one_url_and_one_cursor() -> None:
    publish("b", "x")
    rendered = render('{% autoescape off %}{% stream_url "b" "user.7" "b" %}{% endautoescape %}')
    assert rendered == "/events/?channel=b&channel=user.7&last_event_id=1"


@transactional
def test_channels_may_be_variables() -> None:
    assert render("{% stream_url channel %}", channel="score.7") == "/events/score.7/?last_event_id=0"


@transactional
def test_end_and_refuse_are_in_the_query() -> None:
    rendered = render('{% autoescape off %}{% stream_url "news" end="error" refuse="event" %}{% endautoescape %}')
    assert rendered == "/events/news/?last_event_id=0&end=error&refuse=event"


@pytest.mark.django_db
def test_empty_log_begins_at_zero() -> None:
    LogHead.objects.all().delete()
    assert render('{% stream_url "news" %}') == "/events/news/?last_event_id=0"


@pytest.mark.django_db
def test_url_stands_below_the_sites_prefix() -> None:
    try:
        set_script_prefix("/site/")
        assert render('{% stream_url "news" %}') == "/site/events/news/?last_event_id=0"
    finally:
        set_script_prefix("/")


@pytest.mark.django_db
@pytest.mark.parametrize("channel", ["news", "user.7", "-", "_", "...", ".hidden", ".", ".."])
def test_url_leads_a_browser_to_the_stream_of_every_channel(channel: str) -> None:
    """A browser removes dot segments from a path: `/events/../` becomes `/`."""
    resolved = urlsplit(urljoin("http://testserver/page/", render("{% stream_url channel %}", channel=channel)))
    in_query = parse_qs(resolved.query).get("channel")
    assert resolved.path == ("/events/" if in_query == [channel] else f"/events/{channel}/")


def test_tag_without_channels_is_refused() -> None:
    with pytest.raises(TemplateSyntaxError) as error:
        render("{% stream_url %}")
    assert str(error.value) == "{% stream_url %} requires one or more channel names."


@pytest.mark.parametrize("channel", ["news room", "", None, "a/b", ["news"]])
def test_bad_channel_is_refused_with_the_rule(channel: object) -> None:
    with pytest.raises(InvalidChannel, match="Channel names use"):
        render("{% stream_url channel %}", channel=channel)


# --- Escaping ---------------------------------------------------------------------------------------------------------

SEVERAL = "/events/?channel=a&channel=b&last_event_id=0"


class Attributes(HTMLParser):
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found = dict(attrs)


@pytest.mark.django_db
def test_url_is_escaped_for_an_attribute() -> None:
    rendered = render("""<main data-stream="{% stream_url 'a' 'b' %}">""")
    assert "&amp;channel=b" in rendered
    parser = Attributes()
    parser.feed(rendered)
    assert parser.found["data-stream"] == SEVERAL
    assert html.unescape(rendered) == f'<main data-stream="{SEVERAL}">'


@pytest.mark.django_db
def test_url_in_a_variable_is_as_it_is_and_can_be_escaped_for_a_script() -> None:
    rendered = render("""{% stream_url 'a' 'b' as url %}"{{ url|escapejs }}\"""")
    assert json.loads(rendered) == SEVERAL


# --- The cursor -------------------------------------------------------------------------------------------------------


@transactional
def test_rendering_is_one_query_that_writes_and_locks_nothing() -> None:
    publish("news", "a")
    with CaptureQueriesContext(connection) as captured:
        render('{% stream_url "news" %}')
    [query] = captured.captured_queries
    assert query["sql"].lstrip().startswith("SELECT")
    assert "FOR UPDATE" not in query["sql"]


@transactional
def test_rendering_sequences_nothing() -> None:
    publish("news", "a")
    [waiting] = log.append([check(NewMessage("news", "committed, and its publisher died"))])
    assert render('{% stream_url "news" %}') == "/events/news/?last_event_id=1"
    assert Message.objects.get(pk=waiting.pk).position is None


@transactional
@override_settings(STREAMS={"PUBLIC_CHANNELS": ["*"]})
@pytest.mark.parametrize("channels", [["news"], ["other", "news"]])
async def test_what_is_published_after_the_rendering_is_in_the_stream(channels: list[str]) -> None:
    await apublish("news", "before")
    names = " ".join(f"'{channel}'" for channel in channels)
    tag = f"{{% autoescape off %}}{{% stream_url {names} %}}{{% endautoescape %}}"
    url = await sync_to_async(render)(tag)
    await apublish("news", "while the page was on its way")
    response = await AsyncClient().get(url)
    await apublish("news", "live")
    events = await read_events(response, 2)
    assert [event.data for event in events] == ["while the page was on its way", "live"]


@transactional
@override_settings(STREAMS={"PUBLIC_CHANNELS": ["*"]})
async def test_what_was_committed_before_and_not_sequenced_yet_is_in_the_stream() -> None:
    await sync_to_async(log.append)([check(NewMessage("news", "not sequenced"))])
    url = await sync_to_async(render)("{% stream_url 'news' %}")
    response = await AsyncClient().get(url)
    assert [event.data for event in await read_events(response, 1)] == ["not sequenced"]


RENDER = """
from django.template import Context, Template
url = Template("{% load streams %}{% stream_url 'news' %}").render(Context())
"""

HOLD_THE_HEAD = """
import sys
from django.db import transaction
from streams import log, publish
publish("news", "first")
with transaction.atomic():
    log.sequence()
    print("locked", flush=True)
    sys.stdin.readline()
"""

RENDER_IN_A_TRANSACTION = f"""
import sys
from django.db import transaction
with transaction.atomic():
    {RENDER.strip().replace(chr(10), chr(10) + "    ")}
    print(url, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.once
def test_page_does_not_wait_for_a_publisher_that_holds_the_heads_lock(site: Site) -> None:
    holder = site.script(HOLD_THE_HEAD)
    holder.expect_line("locked")
    assert finish(site.script(RENDER + "print(url)")) == "/events/news/?last_event_id=1\n"
    assert holder.poll() is None, "the publisher must still hold the lock"


@pytest.mark.once
def test_publisher_does_not_wait_for_a_page_whose_transaction_is_open(postgres_site: Site) -> None:
    """The test needs PostgreSQL: on SQLite, any open write transaction blocks all publishers."""
    page = postgres_site.script(RENDER_IN_A_TRANSACTION)
    page.expect_line("/events/news/?last_event_id=0")
    published = postgres_site.script("from streams import publish\nprint(publish('news', 'x').position)")
    assert finish(published) == "1\n"
    assert page.poll() is None, "the page's transaction must still be open"
