"""Who may read, who may publish, and what a refusal says."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.http import HttpRequest
from django.test import AsyncClient, RequestFactory, override_settings

from streams import apublish
from streams.channels import access_rules, is_public
from streams.models import ChannelSettings
from streams.policies import BasePolicy, DefaultPolicy, get_policy
from streams.testing import read_events
from streams.tokens import make_token


def request_of(user: Any) -> HttpRequest:
    request = RequestFactory().get("/events/news/")
    request.user = user
    return request


# The rules that staff have settled in the admin are read from the database.
pytestmark = pytest.mark.django_db(transaction=True)


class UntouchableRequest(HttpRequest):
    """Fails where it is asked for its user, which is what costs the queries for session and user."""

    @property
    def user(self) -> Any:
        raise AssertionError("the user was looked at")


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
    assert await StricterPolicy().aask_to_read(banned, ["news"]) == ["news"]
    assert await StricterPolicy().aask_to_read(RequestFactory().get("/"), ["news"]) == []


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
    assert await policy.aask_to_read(UntouchableRequest(), ["news"]) == []
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
    may = [channel for channel in channels if DefaultPolicy().can_subscribe(request_of(one), channel)]
    assert may == [f"user.{pk}"]


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
    assert await DefaultPolicy().aask_to_read(request_of(AnonymousUser()), ["a", "b", "c"]) == ["a", "c"]


def test_refusal_says_how_to_open_a_channel() -> None:
    assert DefaultPolicy().refusal(["a", "c"]) == (
        "You may not read a, c. To open a channel to everyone, add it to STREAMS['PUBLIC_CHANNELS'] (patterns such "
        "as 'score.*' match too), or say in the admin who may read it; to decide otherwise, set STREAMS['POLICY']."
    )


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["*"]})
async def test_base_class_denies_everything() -> None:
    policy, request = BasePolicy(), request_of(User(is_active=True, is_staff=True, is_superuser=True))
    assert not policy.can_subscribe(request, "news")
    assert not policy.can_publish(request, "news")
    assert not await policy.acan_subscribe(request, "news")
    assert not await policy.acan_publish(request, "news")
    assert await policy.aask_to_read(request, ["news"]) == ["news"]
    assert policy.refusal(["news"]) == "You may not read news."


# --- STREAMS['POLICY'] ------------------------------------------------------------------------------------------------


class Rooms(BasePolicy):
    """A site's own policy: the query says which rooms the client is in."""

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return channel in request.GET.getlist("room")

    def refusal(self, channels: Sequence[str]) -> str:
        return f"Join {', '.join(channels)} first."


OWN_POLICY = {"POLICY": f"{__name__}.Rooms", "PUBLIC_CHANNELS": ["news"]}


def test_policy_is_the_default_one_where_none_is_named() -> None:
    assert type(get_policy()) is DefaultPolicy


def test_policy_is_the_one_that_is_named_for_as_long_as_it_is_named() -> None:
    with override_settings(STREAMS=OWN_POLICY):
        assert type(get_policy()) is Rooms
        assert get_policy() is get_policy(), "one instance serves the process"
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


# --- What it costs ----------------------------------------------------------------------------------------------------


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
    with django_assert_num_queries(1):  # the rules, which are not kept in a test
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
    ask = policy.refused_to_publish if publishing else policy.refused

    def queries_for(channels: Sequence[str]) -> int:
        with django_assert_max_num_queries(10) as asked:
            assert ask(request_of(User.objects.get(pk=ada.pk)), channels) == []
        return len(asked)

    assert queries_for(names) == queries_for(["press.1"])


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]})
async def test_what_is_open_or_granted_is_decided_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a thread was asked for")

    monkeypatch.setattr("streams.policies.sync_to_async", run)
    with_token = RequestFactory().get("/", {"token": make_token(read=["a"], publish=["a"])})
    assert await DefaultPolicy().aask_to_read(UntouchableRequest(), ["news"]) == []
    assert await DefaultPolicy().aask_to_read(with_token, ["news", "a", "b"]) == ["b"]
    assert await DefaultPolicy().aask_to_publish(with_token, ["a", "b"]) == ["b"]


# --- Many channels at once --------------------------------------------------------------------------------------------


class _Noting(BasePolicy):
    """Notes in which thread it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        self.asked.append((channel, threading.get_ident()))
        return channel.startswith("a")

    can_publish = can_subscribe


async def test_sync_policy_is_asked_about_all_channels_in_one_go() -> None:
    policy, request = _Noting(), request_of(AnonymousUser())
    assert await policy.aask_to_read(request, ["a1", "b", "a2"]) == ["b"]
    assert await policy.aask_to_publish(request, ["b", "a1"]) == ["b"]
    assert [channel for channel, _ in policy.asked] == ["a1", "b", "a2", "b", "a1"]
    assert threading.get_ident() not in {thread for _, thread in policy.asked}


@pytest.mark.parametrize("base", [BasePolicy, DefaultPolicy])
async def test_async_methods_of_a_subclass_are_asked_and_nothing_else(base: type[BasePolicy]) -> None:
    class Async(base):  # type: ignore[misc,valid-type]
        def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
            raise AssertionError("there is an answer without it")

        can_publish = can_subscribe

        async def acan_subscribe(self, request: HttpRequest, channel: str) -> bool:
            return channel == "a"

        acan_publish = acan_subscribe

    policy, request = Async(), request_of(AnonymousUser())
    assert await policy.aask_to_read(request, ["a", "b"]) == ["b"]
    assert await policy.aask_to_publish(request, ["a", "b"]) == ["b"]


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news", "closed"]})
async def test_async_methods_of_a_subclass_may_ask_the_default_ones() -> None:
    class Async(DefaultPolicy):
        async def acan_subscribe(self, request: HttpRequest, channel: str) -> bool:
            return channel != "closed" and await super().acan_subscribe(request, channel)

        async def acan_publish(self, request: HttpRequest, channel: str) -> bool:
            return channel == "open" or await super().acan_publish(request, channel)

    request = request_of(AnonymousUser())
    assert await Async().aask_to_read(request, ["news", "closed", "other"]) == ["closed", "other"]
    assert await Async().aask_to_publish(request, ["open", "news"]) == ["news"]


async def test_a_subclass_may_decide_over_many_at_once() -> None:
    class Batch(DefaultPolicy):
        def refused(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
            return [channel for channel in channels if channel != "a"]

        refused_to_publish = refused

    policy, request = Batch(), request_of(AnonymousUser())
    assert await policy.aask_to_read(request, ["a", "b"]) == ["b"]
    assert await policy.aask_to_publish(request, ["a", "b"]) == ["b"]


def _rule(name: str) -> Any:
    """A method of that name that admits to "open" alone, by one channel or by many, sync or async."""
    single, is_async = "refused" not in name, name.startswith("a")

    def sync(self: Any, request: HttpRequest, asked: Any) -> Any:
        return asked == "open" if single else [channel for channel in asked if channel != "open"]

    async def twin(self: Any, request: HttpRequest, asked: Any) -> Any:
        return sync(self, request, asked)

    return twin if is_async else sync


READING = ["can_subscribe", "acan_subscribe", "refused", "arefused"]
PUBLISHING = ["can_publish", "acan_publish", "refused_to_publish", "arefused_to_publish"]


@pytest.mark.parametrize("base", [BasePolicy, DefaultPolicy])
@pytest.mark.parametrize("name", [*READING, *PUBLISHING])
@override_settings(STREAMS={"PUBLIC_CHANNELS": ["closed"]})
async def test_one_method_of_a_subclass_is_the_rule_whoever_asks(base: type[BasePolicy], name: str) -> None:
    """From sync code and from async: a rule in one colour is not passed over in the other."""
    policy = type("Own", (base,), {name: _rule(name)})()
    derived = type("Derived", (type(policy),), {})()
    request, asked = request_of(AnonymousUser()), ["open", "closed"]
    for each in (policy, derived):
        if name in READING:
            assert await each.aask_to_read(request, asked) == ["closed"]
            assert await sync_to_async(each.ask_to_read)(request, asked) == ["closed"]
        else:
            assert await each.aask_to_publish(request, asked) == ["closed"]
            assert await sync_to_async(each.ask_to_publish)(request, asked) == ["closed"]


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["open", "closed"]})
@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("before", ["can_subscribe", "acan_subscribe"])  # who decides over many, decides
async def test_stricter_rule_of_a_derived_class_stands_above_any_of_the_class_before(name: str, before: str) -> None:
    def admits_all(self: Any, request: HttpRequest, channel: str) -> bool:
        return True

    async def admits_all_async(self: Any, request: HttpRequest, channel: str) -> bool:
        return True

    lax = type("Lax", (DefaultPolicy,), {before: admits_all_async if before.startswith("a") else admits_all})
    policy = type("Strict", (lax,), {name: _rule(name)})()
    request = request_of(AnonymousUser())
    assert await policy.aask_to_read(request, ["open", "closed"]) == ["closed"]
    assert await sync_to_async(policy.ask_to_read)(request, ["open", "closed"]) == ["closed"]


@pytest.mark.parametrize("name", [*READING, *PUBLISHING])
async def test_a_method_may_ask_the_one_that_it_overrides(name: str) -> None:
    def sync(self: Any, request: HttpRequest, asked: Any) -> Any:
        return getattr(super(Own, self), name)(request, asked)

    async def twin(self: Any, request: HttpRequest, asked: Any) -> Any:
        return await getattr(super(Own, self), name)(request, asked)

    Own = type("Own", (DefaultPolicy,), {name: twin if name.startswith("a") else sync})
    with override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]}):
        policy, request = Own(), request_of(AnonymousUser())
        assert await policy.aask_to_read(request, ["news", "other"]) == ["other"]
        assert await sync_to_async(policy.ask_to_read)(request, ["news", "other"]) == ["other"]
        assert await policy.aask_to_publish(request, ["news"]) == ["news"]
        assert await sync_to_async(policy.ask_to_publish)(request, ["news"]) == ["news"]


@pytest.mark.parametrize("base", [BasePolicy, DefaultPolicy])
@pytest.mark.parametrize("before", ["can_subscribe", "refused"])
@pytest.mark.parametrize("after", ["acan_subscribe", "arefused"])
@override_settings(STREAMS={"PUBLIC_CHANNELS": ["open", "closed"]})
async def test_async_method_that_asks_the_one_before_it_has_the_sync_rule_below_hold(
    base: type[BasePolicy], before: str, after: str
) -> None:
    """As one that only writes down who was refused; nor do the two go round in a circle."""
    stricter = type("Stricter", (base,), {before: _rule(before)})

    async def asks(self: Any, request: HttpRequest, asked: Any) -> Any:
        return await getattr(super(Logging, self), after)(request, asked)

    Logging = type("Logging", (stricter,), {after: asks})
    policy, request = Logging(), request_of(AnonymousUser())
    assert await policy.aask_to_read(request, ["open", "closed"]) == ["closed"]
    assert await sync_to_async(policy.ask_to_read)(request, ["open", "closed"]) == ["closed"]


@pytest.mark.parametrize("name", PUBLISHING)
def test_broadcasts_go_by_the_rule_for_publishing(name: str) -> None:
    policy = type("Own", (BasePolicy,), {name: _rule(name)})()
    assert policy.can_broadcast(request_of(AnonymousUser()), "open")
    assert not policy.can_broadcast(request_of(AnonymousUser()), "closed")


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
    assert not policy.can_grant_pattern(with_token, "a.*", to_publish=to_publish), "a token would live for ever"
