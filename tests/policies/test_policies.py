"""The policies decide which users can read and publish, and describe refusals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.http import HttpRequest
from django.test import AsyncClient, RequestFactory, override_settings

from streams import apublish
from streams.channels.rules import access_rules, is_public
from streams.models import ChannelSettings
from streams.policies import BasePolicy, DefaultPolicy, get_policy
from streams.testing import read_events
from streams.tokens import make_token


def request_of(user: Any) -> HttpRequest:
    request = RequestFactory().get("/events/news/")
    request.user = user
    return request


# The policies read the channels' access settings from the database.
pytestmark = pytest.mark.django_db(transaction=True)


class UntouchableRequest(HttpRequest):
    """Fail on access to the user, which would need queries for the session and the user."""

    @property
    def user(self) -> Any:
        raise AssertionError("the user was accessed")


@pytest.fixture(autouse=True)
def _no_public_channels() -> Iterator[None]:
    with override_settings(STREAMS={}):
        yield


class StricterPolicy(DefaultPolicy):
    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return "banned" not in request.headers and super().can_subscribe(request, channel)


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]})
async def test_stricter_rule_of_a_subclass_holds_for_public_channels_as_well() -> None:
    banned = RequestFactory().get("/", headers={"banned": "yes"})
    assert await StricterPolicy().adenied_channels(banned, ["news"]) == ["news"]
    assert await StricterPolicy().adenied_channels(RequestFactory().get("/"), ["news"]) == []


# --- Public channels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "channel", "public"),
    [
        ("news", "news", True),
        ("news", "News", False),
        ("News", "news", False),
        ("news", "news2", False),
        ("news", "old.news", False),
        ("news", "news.sports", False),
        ("score.*", "score.7", True),
        ("score.*", "score.7.live", True),
        ("score.*", "score.", True),
        ("score.*", "score", False),
        ("score.*", "scoreX7", False),
        ("SCORE.*", "score.7", False),
        ("score.?", "score.7", True),
        ("score.?", "score.77", False),
        ("score.[0-9]", "score.7", True),
        ("score.[0-9]", "score.x", False),
        ("score.[!x]", "score.7", True),
        ("score.[!x]", "score.x", False),
        ("*", "anything.at.all", True),
        ("*.public", "a.b.public", True),
        ("", "news", False),
        ("news\n", "news", False),
    ],
)
def test_public_channels_are_patterns_in_which_case_counts(pattern: str, channel: str, public: bool) -> None:
    with override_settings(STREAMS={"PUBLIC_CHANNELS": [pattern]}):
        assert is_public(channel) is public
        assert DefaultPolicy().can_subscribe(request_of(AnonymousUser()), channel) is public


def test_no_channel_is_public_by_default() -> None:
    assert not is_public("news")


def test_public_channels_are_looked_up_live() -> None:
    policy = DefaultPolicy()
    assert not policy.can_subscribe(request_of(AnonymousUser()), "news")
    with override_settings(STREAMS={"PUBLIC_CHANNELS": ["other", "news"]}):
        assert policy.can_subscribe(request_of(AnonymousUser()), "news")


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]})
async def test_public_channel_is_decided_without_looking_at_the_user() -> None:
    policy = DefaultPolicy()
    assert await sync_to_async(policy.can_subscribe)(UntouchableRequest(), "news")
    assert await policy.acan_subscribe(UntouchableRequest(), "news")
    assert await policy.adenied_channels(UntouchableRequest(), ["news"]) == []
    with pytest.raises(AssertionError):
        await policy.acan_subscribe(UntouchableRequest(), "secret")


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]})
def test_site_without_authentication_has_its_public_channels_and_no_others() -> None:
    request = RequestFactory().get("/")
    assert not hasattr(request, "user")
    assert DefaultPolicy().can_subscribe(request, "news")
    assert not DefaultPolicy().can_subscribe(request, "secret")
    assert not DefaultPolicy().can_publish(request, "news")


# --- Users ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["news", "user.1", "user.None", "user.", "user.AnonymousUser"])
def test_anonymous_may_read_nothing_that_is_not_public(channel: str) -> None:
    assert not DefaultPolicy().can_subscribe(request_of(AnonymousUser()), channel)


def test_user_may_read_the_own_channel_and_no_other_users() -> None:
    one, other = User.objects.create(username="one"), User.objects.create(username="other")
    pk = one.pk
    channels = [
        f"user.{pk}",
        f"user.{other.pk}",
        f"user.0{pk}",
        f"user.{pk}.x",
        f"User.{pk}",
        f"user.{pk}0",
        f"x.user.{pk}",
    ]
    channels += ["user.one", "user.", "user.*", "news"]
    readable = [channel for channel in channels if DefaultPolicy().can_subscribe(request_of(one), channel)]
    assert readable == [f"user.{pk}"]


def test_inactive_user_may_read_nothing() -> None:
    user = User.objects.create(username="gone", is_active=False, is_staff=True, is_superuser=True)
    assert not DefaultPolicy().can_subscribe(request_of(user), f"user.{user.pk}")
    assert not DefaultPolicy().can_subscribe(request_of(user), "news")
    assert not DefaultPolicy().can_publish(request_of(user), "news")


def with_permission(name: str | None, **attributes: Any) -> User:
    user = User.objects.create(username="somebody", **attributes)
    if name is not None:
        user.user_permissions.add(Permission.objects.get(codename=name, content_type__app_label="streams"))
    return user


@pytest.mark.parametrize(
    ("attributes", "permission", "reads", "publishes"),
    [
        ({"is_staff": True}, "view_message", True, False),
        ({"is_staff": True}, "add_message", False, True),
        ({"is_staff": True}, None, False, False),
        ({"is_staff": True}, "view_channelsettings", False, False),
        ({"is_staff": False}, "view_message", False, False),
        ({"is_staff": False}, "add_message", False, False),
        ({"is_staff": True, "is_superuser": True}, None, True, True),
        ({"is_staff": False, "is_superuser": True}, None, False, False),
        ({"is_staff": True, "is_active": False}, "view_message", False, False),
        ({}, None, False, False),
    ],
)
def test_staff_read_and_publish_by_their_permissions(
    attributes: dict[str, bool], permission: str | None, reads: bool, publishes: bool
) -> None:
    request = request_of(with_permission(permission, **attributes))
    assert DefaultPolicy().can_subscribe(request, "any.channel") is reads
    assert DefaultPolicy().can_subscribe(request, "user.999999") is reads
    assert DefaultPolicy().can_publish(request, "any.channel") is publishes


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["*"]})
def test_public_channel_is_open_to_readers_and_not_to_publishers() -> None:
    assert not DefaultPolicy().can_publish(request_of(AnonymousUser()), "news")


async def test_async_answers_are_the_sync_ones() -> None:
    user = await User.objects.acreate(username="one")
    policy, request = DefaultPolicy(), request_of(user)
    assert await policy.acan_subscribe(request, f"user.{user.pk}")
    assert not await policy.acan_subscribe(request, "news")
    assert not await policy.acan_publish(request, "news")


# --- Refusals, and the base class -------------------------------------------------------------------------------------


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["b"]})
async def test_each_channel_that_is_refused_is_named() -> None:
    assert await DefaultPolicy().adenied_channels(request_of(AnonymousUser()), ["a", "b", "c"]) == ["a", "c"]


def test_refusal_says_how_to_open_a_channel() -> None:
    assert DefaultPolicy().denied_message(["a", "c"]) == (
        "You do not have permission to read a, c. To open a channel to everyone, add it to STREAMS['PUBLIC_CHANNELS'] "
        "(patterns such as 'score.*' match too), or choose its readers in the admin. For other rules, set "
        "STREAMS['POLICY']."
    )


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["*"]})
async def test_base_class_denies_everything() -> None:
    policy, request = BasePolicy(), request_of(User(is_active=True, is_staff=True, is_superuser=True))
    assert not policy.can_subscribe(request, "news")
    assert not policy.can_publish(request, "news")
    assert not await policy.acan_subscribe(request, "news")
    assert not await policy.acan_publish(request, "news")
    assert await policy.adenied_channels(request, ["news"]) == ["news"]
    assert policy.denied_message(["news"]) == "You do not have permission to read news."


# --- STREAMS['POLICY'] ------------------------------------------------------------------------------------------------


class Rooms(BasePolicy):
    """Admit a client to the rooms in its query string."""

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return channel in request.GET.getlist("room")

    def denied_message(self, channels: Sequence[str]) -> str:
        return f"Join {', '.join(channels)} first."


OWN_POLICY = {"POLICY": f"{__name__}.Rooms", "PUBLIC_CHANNELS": ["news"]}


def test_policy_is_the_default_one_where_none_is_named() -> None:
    assert type(get_policy()) is DefaultPolicy


def test_policy_is_the_one_that_is_named_for_as_long_as_it_is_named() -> None:
    with override_settings(STREAMS=OWN_POLICY):
        assert type(get_policy()) is Rooms
        assert get_policy() is get_policy(), "the process has one instance of the policy"
    assert type(get_policy()) is DefaultPolicy


def test_unrelated_setting_leaves_the_policy_alone() -> None:
    before = get_policy()
    with override_settings(DEBUG=True):
        assert get_policy() is before


@override_settings(STREAMS=OWN_POLICY)
async def test_views_ask_the_sites_own_policy_and_no_other() -> None:
    client = AsyncClient()
    refused = await client.get("/events/?channel=news&channel=a&channel=b&room=a")
    assert (refused.status_code, refused.json()) == (
        403,
        {"error": {"code": "forbidden", "message": "Join news, b first."}},
    )
    admitted = await client.get("/events/a/?room=a")
    await apublish("a", "hello")
    assert [event.data for event in await read_events(admitted, 1)] == ["hello"]


@override_settings(STREAMS={"POLICY": "streams.policies.BasePolicy"})
async def test_publishing_in_code_asks_no_policy() -> None:
    message = await apublish("news", "hello")
    assert message.position == 1


# --- Queries ----------------------------------------------------------------------------------------------------------


def test_groups_of_a_user_are_asked_for_once(django_assert_num_queries: Any) -> None:
    group = Group.objects.create(name="press")
    names = [f"press.{n}" for n in range(50)]
    for name in names:
        ChannelSettings.objects.create(channel=name, access="groups").groups.add(group)
    ada, bob = User.objects.create(username="ada"), User.objects.create(username="bob")
    ada.groups.add(group)
    rules = access_rules()
    with django_assert_num_queries(1):
        assert all(rules[name].admits(ada) for name in names)
    assert not any(rules[name].admits(bob) for name in names)


def test_staff_who_read_their_own_channel_cost_no_more_than_others(django_assert_num_queries: Any) -> None:
    ada = User.objects.create(username="ada", is_staff=True)
    with django_assert_num_queries(1):  # for the access rules, which tests do not cache
        assert DefaultPolicy().can_subscribe(request_of(ada), f"user.{ada.pk}")


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news.*"]})
@pytest.mark.parametrize("publishing", [False, True])
def test_fifty_channels_cost_as_many_queries_as_one(
    django_assert_max_num_queries: Any, django_assert_num_queries: Any, publishing: bool
) -> None:
    group = Group.objects.create(name="press")
    for n in range(40):
        ChannelSettings.objects.create(channel=f"press.{n}", access="groups").groups.add(group)
    ada = User.objects.create(username="ada", is_staff=True)
    ada.user_permissions.set(Permission.objects.filter(codename__in=["view_message", "add_message"]))
    names = [*(f"press.{n}" for n in range(40)), "news.1", f"user.{ada.pk}", *(f"other.{n}" for n in range(8))]
    policy = DefaultPolicy()
    ask = policy.denied_publish_channels if publishing else policy.denied_channels

    def queries_for(channels: Sequence[str]) -> int:
        with django_assert_max_num_queries(10) as queries:
            assert ask(request_of(User.objects.get(pk=ada.pk)), channels) == []
        return len(queries)

    assert queries_for(names) == queries_for(["press.1"])


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]})
async def test_what_is_open_or_granted_is_decided_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a thread was used")

    monkeypatch.setattr("streams.policies.sync_to_async", run)
    with_token = RequestFactory().get("/", {"token": make_token(read=["a"], publish=["a"])})
    assert await DefaultPolicy().adenied_channels(UntouchableRequest(), ["news"]) == []
    assert await DefaultPolicy().adenied_channels(with_token, ["news", "a", "b"]) == ["b"]
    assert await DefaultPolicy().adenied_publish_channels(with_token, ["a", "b"]) == ["b"]


# --- Patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("permission", ["view_message", "add_message"])
def test_patterns_are_granted_by_staff_who_may_do_it_everywhere(permission: str) -> None:
    ada = User.objects.create(username="ada", is_staff=True)
    ada.user_permissions.set(Permission.objects.filter(codename=permission))
    to_publish = permission == "add_message"
    policy, ada = DefaultPolicy(), User.objects.get(pk=ada.pk)
    assert policy.can_grant_pattern(request_of(ada), "a.*", to_publish=to_publish)
    assert not policy.can_grant_pattern(request_of(ada), "a.*", to_publish=not to_publish)
    assert not policy.can_grant_pattern(request_of(AnonymousUser()), "a.*", to_publish=to_publish)
    with_token = RequestFactory().get(f"/?token={make_token(read=['*'], publish=['*'], user=ada)}")
    with_token.user = ada
    assert not policy.can_grant_pattern(with_token, "a.*", to_publish=to_publish), "a token could renew itself"
