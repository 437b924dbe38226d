"""The functions and views for sites that come from django-eventstream. tests/system/eventstream runs its client."""

from __future__ import annotations

import contextlib
import datetime
import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.checks import run_checks
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.http import HttpRequest
from django.test import AsyncClient, Client

import streams.eventstream as django_eventstream
from streams import publish
from streams.eventstream import asend_event, get_current_event_id, send_event
from streams.exceptions import InvalidMessage
from streams.testing import StreamClient, StreamNotOpened, assert_not_published, assert_published, published
from streams.tokens import make_token
from tests.system.eventstream.channelmanager import MyChannelManager

MANAGER = "tests.system.eventstream.channelmanager.MyChannelManager"


@pytest.fixture
def site(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.system.eventstream.urls"
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = MANAGER


# --- Sending ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"text": "hello world"}, '{"text": "hello world"}'),
        ("hello", '"hello"'),
        (None, "null"),
        ({"at": datetime.date(2026, 1, 1)}, '{"at": "2026-01-01"}'),
        ("ü", '"\\u00fc"'),
    ],
)
def test_data_becomes_the_same_json_as_before(db: None, data: Any, text: str) -> None:
    with assert_published("test", text, event="message"):
        send_event("test", "message", data)


@pytest.mark.parametrize(("data", "text"), [("<p>", "<p>"), (7, "7"), ({"a": 1}, "{'a': 1}")])
def test_data_can_be_sent_as_it_is(db: None, data: Any, text: str) -> None:
    with assert_published("test", text):
        send_event("test", "message", data, json_encode=False)


def test_positional_arguments_are_accepted(db: None) -> None:
    with assert_published("test", "raw"):
        send_event("test", "message", "raw", None, False, False)


def test_type_loses_line_breaks(db: None) -> None:
    with assert_published("test", event="update"):
        send_event("test", "up\r\ndate\0", 1)


def test_invalid_names_are_refused(db: None) -> None:
    for channel, event in (("user:7", "message"), ("test", "stream-reset"), ("test", "")):
        with pytest.raises(InvalidMessage):
            send_event(channel, event, 1)
    assert published() == []


def test_rolled_back_event_is_never_sent(db: None) -> None:
    with assert_not_published(), contextlib.suppress(ArithmeticError), transaction.atomic():
        send_event("test", "message", 1)
        raise ArithmeticError


def test_skipped_users_are_warned_about(db: None) -> None:
    with pytest.warns(RuntimeWarning, match="skip_user_ids has no effect") as warned:
        send_event("test", "message", 1, skip_user_ids=["7"])
    assert warned[0].filename == __file__
    send_event("test", "message", 1, skip_user_ids=[])


async def test_async_code_has_its_own_function(db: None) -> None:
    with assert_published("test", "2"):
        await asend_event("test", "message", 2)
    with pytest.raises(SynchronousOnlyOperation, match="await asend_event"):
        send_event("test", "message", 1)


# --- Streams ----------------------------------------------------------------------------------------------------------


def fields(refusal: StreamNotOpened) -> Any:
    return json.loads(refusal.body)


@pytest.mark.usefixtures("db", "site")
class TestStreams:
    @pytest.mark.parametrize(
        ("path", "channel"),
        [
            ("/events/", "test"),
            ("/events/?channel=other", "test"),
            ("/objects/7/events/", "object-7"),
            ("/channels/news/", "news"),
            ("/any/?channel=a&channel=b", "b"),
        ],
    )
    async def test_route_chooses_the_channels(self, path: str, channel: str) -> None:
        async with StreamClient(AsyncClient(), path) as stream:
            assert (await stream.next("stream-open")).data == ""
            await asend_event("other", "message", "elsewhere")
            await asend_event(channel, "message", {"text": "hello"})
            assert (await stream.next()).data == '{"text": "hello"}'
            await stream.expect_nothing()

    async def test_reconnecting_client_gets_what_it_missed(self) -> None:
        last_id = await sync_to_async(get_current_event_id)(["test"])
        await asend_event("test", "message", "missed")
        async with StreamClient(AsyncClient(), f"/events/?lastEventId={last_id}") as stream:
            assert (await stream.next()).data == '"missed"'

    async def test_id_of_django_eventstream_gets_a_reset(self) -> None:
        """Pages that were open during the migration come back with such an id."""
        await asend_event("test", "message", 1)
        async with StreamClient(AsyncClient(), "/events/", last_event_id="test:41") as stream:
            assert (await stream.next("stream-reset")).event == "stream-reset"

    @pytest.mark.parametrize(
        ("path", "condition", "channels"),
        [
            ("/channels/_private/", "forbidden", ["_private"]),
            ("/any/?channel=news&channel=_private", "forbidden", ["_private"]),
            ("/any/", "bad-request", None),
            ("/any/?channel=a:b", "bad-request", None),
        ],
    )
    async def test_refusal_is_an_event(self, path: str, condition: str, channels: list[str] | None) -> None:
        async with StreamClient(AsyncClient(), path, reconnects=False) as stream:
            refusal = await stream.next("stream-error")
        data = json.loads(refusal.data)
        assert (refusal.id, data["condition"], data.get("channels")) == ("error", condition, channels)

    async def test_client_does_not_come_back_after_a_refusal(self) -> None:
        response = await AsyncClient().get("/events/", headers={"Last-Event-ID": "error"})
        assert (response.status_code, response.content) == (
            400,
            b"Invalid request: Can't resume session after stream-error.\n",
        )

    async def test_refusal_that_passes_keeps_its_status(self, settings: Any) -> None:
        settings.STREAMS = {**settings.STREAMS, "MAX_STREAMS_PER_PROCESS": 1}
        async with StreamClient(AsyncClient(), "/events/"):
            assert (await AsyncClient().get("/events/")).status_code == 429

    def test_wsgi_is_refused_as_for_each_stream(self) -> None:
        assert Client().get("/events/").status_code == 500


async def test_without_a_manager_the_policy_decides(db: None, settings: Any) -> None:
    """django-eventstream lets everyone read everything by default. Streams deny by default."""
    settings.ROOT_URLCONF = "tests.system.eventstream.urls"
    async with StreamClient(AsyncClient(), "/channels/news/") as stream:
        await stream.next("stream-open")
    async with StreamClient(AsyncClient(), "/events/", reconnects=False) as stream:
        assert "PUBLIC_CHANNELS" in (await stream.next("stream-error")).data


# --- Permissions ------------------------------------------------------------------------------------------------------


def request_of(user: Any, **query: str) -> HttpRequest:
    request = HttpRequest()
    request.user = user
    for name, value in query.items():
        request.GET = request.GET.copy()
        request.GET[name] = value
    return request


def test_manager_is_asked_with_none_for_anonymous_clients(db: None, settings: Any) -> None:
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = MANAGER
    policy = django_eventstream.ChannelManagerPolicy()
    user = get_user_model().objects.create(username="ada")
    assert policy.denied_channels(request_of(AnonymousUser()), ["news", "_private"]) == ["_private"]
    assert policy.denied_channels(request_of(user), ["news", "_private"]) == []
    token = make_token(read=["_private"])
    assert policy.denied_channels(request_of(AnonymousUser(), token=token), ["news", "_private"]) == ["news"]


class OwnChannel(django_eventstream.DefaultChannelManager):
    """Chooses the channels by the user, whom only a query can tell."""

    def get_channels_for_request(self, request: HttpRequest, view_kwargs: dict[str, Any]) -> list[str]:
        return [f"own-{request.user.pk}"] if request.user.is_authenticated else ["news"]


@pytest.mark.django_db(transaction=True)
async def test_manager_chooses_channels_by_the_user(site: None, settings: Any) -> None:
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = f"{__name__}.OwnChannel"
    ada = await get_user_model().objects.acreate(username="ada")
    async with StreamClient(AsyncClient(), "/channels/news/", user=ada) as stream:
        await stream.next("stream-open")
        await asend_event(f"own-{ada.pk}", "message", "for Ada")
        assert (await stream.next()).data == '"for Ada"'


def test_manager_does_not_open_the_channels_of_users(db: None, settings: Any) -> None:
    """The managers of django-eventstream do not know these channels, and admit everyone to channels in general."""
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = MANAGER
    policy = django_eventstream.ChannelManagerPolicy()
    ada, bob = (get_user_model().objects.create(username=name) for name in ("ada", "bob"))
    channels = [f"user.{ada.pk}", f"user.{bob.pk}", "generation.x", "users"]
    assert policy.denied_channels(request_of(AnonymousUser()), channels) == channels[:3]
    assert policy.denied_channels(request_of(ada), channels) == channels[1:3]


def test_permission_that_is_kept_ends_no_stream(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(django_eventstream, "disconnect", lambda **arguments: calls.append(arguments))
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = MANAGER
    django_eventstream.channel_permission_changed(None, "news")
    assert calls == []
    django_eventstream.channel_permission_changed(None, "_private")
    assert calls == [{"user": None, "channel": "_private"}]


@pytest.mark.django_db(transaction=True)
async def test_stream_ends_when_the_permission_does(site: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async with StreamClient(AsyncClient(), "/channels/news/") as stream:
        await stream.next("stream-open")
        monkeypatch.setattr(MyChannelManager, "can_read_channel", lambda *args: False)
        await django_eventstream.achannel_permission_changed(None, "news")
        assert '"code":"revoked"' in (await stream.next("stream-error")).data
        assert '"condition": "forbidden"' in (await stream.next("stream-error")).data
        with pytest.raises(StreamNotOpened) as raised:  # it came back with the id of the error
            await stream.next()
    assert raised.value.status == 400


def test_current_id_is_that_of_the_newest_event(db: None) -> None:
    message = publish("test", 1)
    assert get_current_event_id(["test", "other"]) == str(message.position)
    with pytest.raises(InvalidMessage):
        get_current_event_id(["a:b"])


# --- Checks -----------------------------------------------------------------------------------------------------------


def test_settings_that_would_change_answers_are_errors(settings: Any) -> None:
    settings.EVENTSTREAM_ALLOW_ORIGINS = ["https://example.com"]
    settings.EVENTSTREAM_ALLOW_CREDENTIALS = False
    [found] = run_checks(databases=[])
    assert (found.id, found.msg) == ("streams.E007", "Streams do not read EVENTSTREAM_ALLOW_ORIGINS.")
    assert "django-cors-headers" in str(found.hint)


def test_settings_without_effect_are_warnings(settings: Any) -> None:
    settings.EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.DjangoModelStorage"
    settings.EVENTSTREAM_REDIS = {"host": "redis"}
    settings.EVENTSTREAM_CHANNELMANAGER_CLASS = MANAGER
    found = run_checks(databases=[])
    assert [(each.id, each.msg) for each in found] == [
        ("streams.W011", "EVENTSTREAM_STORAGE_CLASS has no effect."),
        ("streams.W011", "EVENTSTREAM_REDIS has no effect."),
    ]
