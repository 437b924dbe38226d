"""Warnings before a broadcast is sent: they forbid nothing, and work without JavaScript."""

from __future__ import annotations

import datetime
import html
import re
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import Client
from django.utils import timezone

from streams import broadcasts, publish, survey
from streams.admin import broadcast_warnings
from streams.models import Broadcast, Channel, ChannelSettings, Message, Node
from streams.policies import BasePolicy, DefaultPolicy
from tests.admin.people import node, staff

pytestmark = pytest.mark.django_db

DESK = "/admin/streams/broadcast/"
DOERS = ("add_broadcast", "change_broadcast", "send_broadcast", "schedule_broadcast")
TEXT = {"event": "message", "payload_type": "text", "payload": "No trains."}
LATER = "A visitor who comes later for the first time does not get it, unless the page asks for earlier messages."
NOBODY = "Nobody is connected right now, so nobody gets it at once."
NEW = "seems to be new: no message, no connection and no settings are known for it. Is the name spelled correctly?"


def draft(*channels: str, **fields: Any) -> Broadcast:
    return Broadcast.objects.create(title="Night works", channels=list(channels), payload="No trains.", **fields)


def page_of_one() -> str:
    """The URL under which the one broadcast has its pages."""
    return f"{DESK}{Broadcast.objects.get().pk}/"


def warnings(client: Client, *channels: str) -> list[str]:
    """What the script of the compose page gets."""
    answer = client.get(f"{DESK}audience/", {"channel": channels})
    assert answer.status_code == 200
    return [warning["text"] for warning in answer.json()["warnings"]]


def shown(page: str) -> str:
    """What the page says above its buttons, without the script."""
    [text] = re.findall(r'<div id="warnings" role="status">(.*?)</div>', page, re.DOTALL)
    return html.unescape(re.sub("<[^>]*>", " ", text)).strip()


@pytest.fixture
def client() -> Client:
    return staff(*DOERS, name="editor")


# --- Who can read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "readers"),
    [
        ("", "staff who may view messages"),
        ("signed-in", "users who are signed in, by the channel's settings"),
        ("staff", "staff, by the channel's settings"),
        ("groups", "members of the channel's groups, and staff who may view messages"),
        ("public", None),
    ],
)
def test_channel_closed_to_visitors_is_named(client: Client, access: str, readers: str | None) -> None:
    publish("duty", "so that it is known")
    if access:
        ChannelSettings.objects.create(channel="duty", access=ChannelSettings.Access(access))
    sentence = f"Visitors who are not signed in cannot read “duty”. It can be read by: {readers}."
    assert warnings(client, "duty", "news") == ([] if readers is None else [sentence])


def test_warnings_are_on_each_page_before_sending(client: Client) -> None:
    publish("duty", "so that it is known")
    answer = client.post(f"{DESK}add/", {**TEXT, "title": "x", "channels": "duty nwes", "_send": "1"}, follow=True)
    pages = [answer.text, client.get(f"{page_of_one()}change/").text, client.get(f"{page_of_one()}schedule/").text]
    for page in pages:
        assert "cannot read “duty”. It can be read by: staff who may view messages." in shown(page)
        assert f"“nwes” {NEW} The most similar name that is known is “news”." in shown(page)
        assert "“news” seems" not in page
    wrong = client.post(f"{DESK}add/", {**TEXT, "title": "", "channels": "duty"})
    assert wrong.status_code == 422
    assert "cannot read “duty”" in shown(wrong.text)
    sent = client.post(f"{page_of_one()}send/", {"revision": "1"}, follow=True)  # a warning forbids nothing
    assert "Sent. 0 connections were open." in sent.text
    assert Message.objects.filter(channel="nwes").exists()


def test_descriptions_name_the_warnings(client: Client) -> None:
    draft("news")
    page = client.get(f"{page_of_one()}send/").text
    assert 'id="send-to" aria-describedby="warnings nobody"' in page
    assert 'aria-describedby="channels-problem channels-help warnings"' in client.get(f"{DESK}add/").text


class Asking(DefaultPolicy):
    requests: list[HttpRequest] = []

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        self.requests.append(request)
        return channel == "open"


def test_policy_is_asked_as_for_a_visitor(client: Client, settings: Any) -> None:
    settings.STREAMS = {"POLICY": f"{__name__}.Asking"}
    for channel in ("open", "shut"):
        publish(channel, "x")
    [sentence] = warnings(client, "open", "shut")
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
    page = client.get(f"{page_of_one()}send/")
    assert page.status_code == 200
    assert "It is not known who can read “duty”: the site's policy failed." in shown(page.text)
    assert "secret of the site" not in page.text
    assert "secret of the site" in caplog.text


class OwnWords(BasePolicy):
    def can_publish(self, request: HttpRequest, channel: str) -> bool:
        return channel != "others.news"

    def readers(self, channel: str) -> str:
        return "<b>subscribers\u202e"


def test_words_of_a_policy_become_no_markup(client: Client, settings: Any) -> None:
    settings.STREAMS = {"POLICY": f"{__name__}.OwnWords"}
    draft("news")
    page = client.get(f"{page_of_one()}send/").text
    assert "&lt;b&gt;subscribers" in page
    assert "U+202E" in shown(page)


# --- Names that may be mistakes ---------------------------------------------------------------------------------------


def make_known(how: str) -> None:
    """Leave a trace of the channel `fresh`, of one kind."""
    match how:
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


@pytest.mark.parametrize("how", ["message", "settings", "pruned", "listener", "listener that left", "broadcast"])
def test_channel_with_any_trace_is_not_new(client: Client, how: str) -> None:
    assert any("“fresh” seems to be new" in warning for warning in warnings(client, "fresh"))
    make_known(how)
    assert not any("“fresh” seems to be new" in warning for warning in warnings(client, "fresh"))


def test_channel_that_settings_open_is_not_new(client: Client) -> None:
    assert warnings(client, "news", "public.never.used") == []


def test_draft_is_no_trace(client: Client) -> None:
    draft("fresh")
    assert "“fresh” seems to be new" in shown(client.get(f"{page_of_one()}send/").text)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("wheather", "weather"),
        ("waether", "weather"),
        ("Weather", "weather"),
        ("nws", "news"),  # from PUBLIC_CHANNELS
        ("latform.7", "platform.7"),
        ("lone", ""),
    ],
)
def test_nearest_known_name_is_offered(client: Client, name: str, nearest: str) -> None:
    publish("weather", "x")
    ChannelSettings.objects.create(channel="platform.7")
    [found] = [
        each for each in client.get(f"{DESK}audience/", {"channel": name}).json()["warnings"] if NEW in each["text"]
    ]
    assert found["nearest"] == nearest
    assert ("The most similar name" in found["text"]) == bool(nearest)


def test_nearest_name_is_found_behind_many_others(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast_warnings, "MOST_NAMES", 5)
    for n in range(10):
        publish(f"a.{n}", "x")
    publish("weather", "x")
    assert "weather" not in survey.known_names([], limit=5)
    assert "is “weather”." in " ".join(warnings(client, "wether"))


def test_names_that_are_not_allowed_are_not_offered(client: Client, settings: Any) -> None:
    settings.STREAMS = {"POLICY": f"{__name__}.OwnWords"}
    publish("others.news", "x")
    assert "others.news" not in " ".join(warnings(client, "other.news"))


@pytest.mark.parametrize("garbage", ["\0", "%", "x" * 10_000, "a b", "\u202e", ""])
def test_garbage_gets_no_warning_and_no_error(client: Client, garbage: str) -> None:
    assert warnings(client, garbage) == []


def test_channels_that_one_may_not_use_get_no_warning(client: Client, settings: Any) -> None:
    settings.STREAMS = {"POLICY": f"{__name__}.OwnWords"}
    assert warnings(client, "others.news") == []
    draft("others.news")
    assert shown(client.get(f"{page_of_one()}send/").text) == ""


def test_many_channels_cost_few_queries(client: Client, django_assert_max_num_queries: Any) -> None:
    """In tests, a policy's readers() reads the access rules anew for each channel."""
    names = [f"made.up.{n}" for n in range(broadcasts.MAX_CHANNELS)]
    with django_assert_max_num_queries(25 + len(names)):
        assert len(warnings(client, *names)) == 2 * len(names)


# --- Who is connected -------------------------------------------------------------------------------------------------


def test_nobody_connected_is_said_before_sending(client: Client) -> None:
    draft("news")
    send = re.sub(r"\s+", " ", client.get(f"{page_of_one()}send/").text)
    assert f'id="nobody">{NOBODY}<' in send
    assert LATER in send
    assert "log" not in re.findall(r'<p class="quiet">.*?</p>', send)[0]
    assert NOBODY in client.get(f"{page_of_one()}change/").text
    assert client.get(f"{DESK}audience/?channel=news").json()["words"] == ["news: 0 listening now", NOBODY]
    node({"news": 2})
    assert f'id="nobody" hidden>{NOBODY}<' in client.get(f"{page_of_one()}send/").text
    assert client.get(f"{DESK}audience/?channel=news").json()["words"] == ["news: 2 listening now"]
    assert "news: 2 listening now" in client.get(f"{page_of_one()}change/").text
    Node.objects.update(channels={}, channels_left_out=3)
    assert f'id="nobody" hidden>{NOBODY}<' in client.get(f"{page_of_one()}send/").text  # it is not known


def test_result_claims_no_more_than_is_known(client: Client) -> None:
    draft("news")
    node({"news": 2})
    page = re.sub(r"\s+", " ", client.post(f"{page_of_one()}send/", {"revision": "1"}, follow=True).text)
    assert "Sent. 2 connections were open." in page
    assert "Connected at that moment" in page
    assert "The number does not show whether anybody has seen the message." in page
    assert LATER in page
    assert "Who comes later gets it" not in page
