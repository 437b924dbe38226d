"""Warnings before a broadcast is sent. They do not prevent sending, and they work without JavaScript."""

from __future__ import annotations

import datetime
import html
import re
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import Client
from django.utils import timezone

from streams import publish
from streams.admin.broadcasts import warnings
from streams.broadcasts import lifecycle
from streams.log import catalog
from streams.models import Broadcast, Channel, ChannelSettings, Message, Node
from streams.policies import BasePolicy, DefaultPolicy
from tests.admin.people import node, staff

pytestmark = pytest.mark.django_db

LIST = "/admin/streams/broadcast/"
PERMISSIONS = ("add_broadcast", "change_broadcast", "send_broadcast", "schedule_broadcast")
TEXT = {"event": "message", "payload_type": "text", "payload": "No trains."}
LATER = "A visitor who opens the page later does not receive it, unless the page requests earlier messages."
NO_CLIENTS = "No client is connected right now, so the message will not be received immediately."
NEW = "seems to be new: it has no messages, no connections and no settings. Check the spelling."


def draft(*channels: str, **fields: Any) -> Broadcast:
    return Broadcast.objects.create(title="Night works", channels=list(channels), payload="No trains.", **fields)


def broadcast_url() -> str:
    """Return the URL prefix of the pages of the only broadcast."""
    return f"{LIST}{Broadcast.objects.get().pk}/"


def fetched_warnings(client: Client, *channels: str) -> list[str]:
    """Return the warnings that the compose page's script fetches."""
    answer = client.get(f"{LIST}audience/", {"channel": channels})
    assert answer.status_code == 200
    return [warning["text"] for warning in answer.json()["warnings"]]


def shown(page: str) -> str:
    """Return the warnings in the HTML of a page, which do not need the script."""
    [text] = re.findall(r'<div id="warnings" role="status">(.*?)</div>', page, re.DOTALL)
    return html.unescape(re.sub("<[^>]*>", " ", text)).strip()


@pytest.fixture
def client() -> Client:
    return staff(*PERMISSIONS, name="editor")


# --- Readers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "readers"),
    [
        ("", "staff with permission to view messages"),
        ("logged-in", "users who are logged in, by the channel's settings"),
        ("staff", "staff, by the channel's settings"),
        ("groups", "members of the channel's groups, and staff with permission to view messages"),
        ("public", None),
    ],
)
def test_channel_closed_to_visitors_is_named(client: Client, access: str, readers: str | None) -> None:
    publish("duty", "so that it is known")
    if access:
        ChannelSettings.objects.create(channel="duty", access=ChannelSettings.Access(access))
    sentence = f"Visitors who are not logged in cannot read “duty”. Readers: {readers}."
    assert fetched_warnings(client, "duty", "news") == ([] if readers is None else [sentence])


def test_warnings_are_shown_before_sending(client: Client) -> None:
    publish("duty", "so that it is known")
    answer = client.post(f"{LIST}add/", {**TEXT, "title": "x", "channels": "duty nwes", "_send": "1"}, follow=True)
    pages = [answer.text, client.get(f"{broadcast_url()}change/").text, client.get(f"{broadcast_url()}schedule/").text]
    for page in pages:
        assert "cannot read “duty”. Readers: staff with permission to view messages." in shown(page)
        assert f"“nwes” {NEW} The most similar known channel is “news”." in shown(page)
        assert "“news” seems" not in page
    wrong = client.post(f"{LIST}add/", {**TEXT, "title": "", "channels": "duty"})
    assert wrong.status_code == 422
    assert "cannot read “duty”" in shown(wrong.text)
    sent = client.post(f"{broadcast_url()}send/", {"revision": "1"}, follow=True)  # a warning does not prevent sending
    assert "Sent. 0 connections were open." in sent.text
    assert Message.objects.filter(channel="nwes").exists()


def test_descriptions_name_the_warnings(client: Client) -> None:
    draft("news")
    page = client.get(f"{broadcast_url()}send/").text
    assert 'id="send-to" aria-describedby="warnings no-connections"' in page
    assert 'aria-describedby="channels-problem channels-help warnings"' in client.get(f"{LIST}add/").text


class Asking(DefaultPolicy):
    requests: list[HttpRequest] = []

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        self.requests.append(request)
        return channel == "open"


def test_policy_sees_a_visitor(client: Client, settings: Any) -> None:
    settings.STREAMS = {"POLICY": f"{__name__}.Asking"}
    for channel in ("open", "shut"):
        publish(channel, "x")
    [sentence] = fetched_warnings(client, "open", "shut")
    assert "cannot read “shut”" in sentence
    for request in Asking.requests:
        assert not request.user.is_authenticated
        assert not request.COOKIES
        assert not request.GET


class Broken(DefaultPolicy):
    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        raise RuntimeError("secret of the site")


def test_policy_that_fails_stops_no_page(client: Client, settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    settings.STREAMS = {"POLICY": f"{__name__}.Broken"}
    publish("duty", "x")
    draft("duty")
    page = client.get(f"{broadcast_url()}send/")
    assert page.status_code == 200
    assert "Cannot check who can read “duty”: the site’s policy failed." in shown(page.text)
    assert "secret of the site" not in page.text
    assert "secret of the site" in caplog.text


class OwnWords(BasePolicy):
    def can_publish(self, request: HttpRequest, channel: str) -> bool:
        return channel != "others.news"

    def describe_readers(self, channel: str) -> str:
        return "<b>subscribers\u202e"


def test_policy_texts_cannot_inject_markup(client: Client, settings: Any) -> None:
    settings.STREAMS = {"POLICY": f"{__name__}.OwnWords"}
    draft("news")
    page = client.get(f"{broadcast_url()}send/").text
    assert "&lt;b&gt;subscribers" in page
    assert "U+202E" in shown(page)


# --- Names that could be mistakes -------------------------------------------------------------------------------------


def make_known(kind: str) -> None:
    """Make the channel `fresh` known in one of several ways."""
    match kind:
        case "message":
            publish("fresh", "x")
        case "settings":
            ChannelSettings.objects.create(channel="fresh")
        case "pruned":
            Channel.objects.create(name="fresh", pruned_through=1)
        case "listener":
            node({"fresh": 1})
        case "listener that left":
            node({"fresh": 1}, seen_at=timezone.now() - datetime.timedelta(minutes=50))
        case "broadcast":
            draft("other", "fresh", state=Broadcast.State.SENT)


@pytest.mark.parametrize("kind", ["message", "settings", "pruned", "listener", "listener that left", "broadcast"])
def test_used_channel_is_not_new(client: Client, kind: str) -> None:
    assert any("“fresh” seems to be new" in warning for warning in fetched_warnings(client, "fresh"))
    make_known(kind)
    assert not any("“fresh” seems to be new" in warning for warning in fetched_warnings(client, "fresh"))


def test_public_channel_is_not_new(client: Client) -> None:
    assert fetched_warnings(client, "news", "public.never.used") == []


def test_draft_is_no_trace(client: Client) -> None:
    draft("fresh")
    assert "“fresh” seems to be new" in shown(client.get(f"{broadcast_url()}send/").text)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("wheather", "weather"),
        ("waether", "weather"),
        ("Weather", "weather"),
        ("nws", "news"),  # in PUBLIC_CHANNELS
        ("latform.7", "platform.7"),
        ("lone", ""),
    ],
)
def test_nearest_known_name_is_offered(client: Client, name: str, nearest: str) -> None:
    publish("weather", "x")
    ChannelSettings.objects.create(channel="platform.7")
    [found] = [
        each for each in client.get(f"{LIST}audience/", {"channel": name}).json()["warnings"] if NEW in each["text"]
    ]
    assert found["suggestion"] == nearest
    assert ("The most similar known channel" in found["text"]) == bool(nearest)


def test_similar_name_is_found_among_many(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "MAX_NAMES", 5)
    for n in range(10):
        publish(f"a.{n}", "x")
    publish("weather", "x")
    assert "weather" not in catalog.known_names([], limit=5)
    assert "is “weather”." in " ".join(fetched_warnings(client, "wether"))


def test_refused_names_are_not_suggested(client: Client, settings: Any) -> None:
    settings.STREAMS = {"POLICY": f"{__name__}.OwnWords"}
    publish("others.news", "x")
    assert "others.news" not in " ".join(fetched_warnings(client, "other.news"))


@pytest.mark.parametrize("garbage", ["\0", "%", "x" * 10_000, "a b", "\u202e", ""])
def test_invalid_names_get_no_warning(client: Client, garbage: str) -> None:
    assert fetched_warnings(client, garbage) == []


def test_refused_channels_get_no_warning(client: Client, settings: Any) -> None:
    settings.STREAMS = {"POLICY": f"{__name__}.OwnWords"}
    assert fetched_warnings(client, "others.news") == []
    draft("others.news")
    assert shown(client.get(f"{broadcast_url()}send/").text) == ""


def test_many_channels_cost_few_queries(client: Client, django_assert_max_num_queries: Any) -> None:
    """Tests do not cache the access rules, so that describe_readers() reads them once for each channel."""
    names = [f"made.up.{n}" for n in range(lifecycle.MAX_CHANNELS)]
    with django_assert_max_num_queries(25 + len(names)):
        assert len(fetched_warnings(client, *names)) == 2 * len(names)


# --- Connections ------------------------------------------------------------------------------------------------------


def test_nobody_connected_is_said_before_sending(client: Client) -> None:
    draft("news")
    send = re.sub(r"\s+", " ", client.get(f"{broadcast_url()}send/").text)
    assert f'id="no-connections">{NO_CLIENTS}<' in send
    assert LATER in send
    assert "log" not in re.findall(r'<p class="quiet">.*?</p>', send)[0]
    assert NO_CLIENTS in client.get(f"{broadcast_url()}change/").text
    assert client.get(f"{LIST}audience/?channel=news").json()["sentences"] == ["news: 0 connected now", NO_CLIENTS]
    node({"news": 2})
    assert f'id="no-connections" hidden>{NO_CLIENTS}<' in client.get(f"{broadcast_url()}send/").text
    assert client.get(f"{LIST}audience/?channel=news").json()["sentences"] == ["news: 2 connected now"]
    assert "news: 2 connected now" in client.get(f"{broadcast_url()}change/").text
    Node.objects.update(channels={}, channels_left_out=3)
    # The number of connections is unknown.
    assert f'id="no-connections" hidden>{NO_CLIENTS}<' in client.get(f"{broadcast_url()}send/").text


def test_result_explains_its_numbers(client: Client) -> None:
    draft("news")
    node({"news": 2})
    page = re.sub(r"\s+", " ", client.post(f"{broadcast_url()}send/", {"revision": "1"}, follow=True).text)
    assert "Sent. 2 connections were open." in page
    assert "Connections when sent" in page
    assert "It does not show whether people have seen the message." in page
    assert LATER in page
