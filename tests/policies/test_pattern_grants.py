"""A policy that overrides a rule grants no tokens for patterns, unless it overrides can_grant_pattern() as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import AsyncClient, RequestFactory, override_settings
from django.urls import path

from streams.channels.policy_methods import PUBLISH_METHODS, READ_METHODS
from streams.policies import BasePolicy, DefaultPolicy
from streams.tokens import make_token
from streams.views import EventStreamView
from tests.api.callers import TOKENS, code, get, key, post, user

pytestmark = pytest.mark.django_db

SECRET = "secret.room"


def request_of_root() -> HttpRequest:
    request = RequestFactory().get("/")
    request.user = User.objects.create(username="root", is_staff=True, is_superuser=True)
    return request


class NotTheSecretRoom(DefaultPolicy):
    """Refuse one channel to staff. The rule depends on the user, which a request with a token does not have."""

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return self._is_for(request, channel) and super().can_subscribe(request, channel)

    def can_publish(self, request: HttpRequest, channel: str) -> bool:
        return self._is_for(request, channel) and super().can_publish(request, channel)

    def _is_for(self, request: HttpRequest, channel: str) -> bool:
        return channel != SECRET or not getattr(request.user, "is_staff", False)


@override_settings(STREAMS={"POLICY": f"{__name__}.NotTheSecretRoom"})
@pytest.mark.parametrize("kind", ["read", "publish"])
@pytest.mark.parametrize("pattern", ["*", "secret.*", "*room", "harmless.*"])
def test_narrowed_policy_is_not_widened_by_patterns(kind: str, pattern: str) -> None:
    staff = key(user("boss", "view_message", "add_message", is_staff=True))
    assert get(f"/api/channels/{SECRET}/messages/", staff).status_code == 403
    assert code(post(TOKENS, {kind: [pattern]}, staff)) == (403, "forbidden")


@override_settings(STREAMS={"POLICY": f"{__name__}.NotTheSecretRoom"})
@pytest.mark.parametrize("kind", ["read", "publish"])
def test_named_channels_are_asked_through_the_policy(kind: str) -> None:
    staff = key(user("boss", "view_message", "add_message", is_staff=True))
    assert post(TOKENS, {kind: ["other.room"]}, staff).status_code == 201
    assert code(post(TOKENS, {kind: [SECRET]}, staff)) == (403, "forbidden")


def _anything(self: Any, *args: Any, **kwargs: Any) -> Any:
    raise AssertionError("this method must not be called")


@pytest.mark.parametrize("name", [*READ_METHODS, *PUBLISH_METHODS])
@pytest.mark.parametrize("way", ["subclass", "derived", "mixin", "instance"])
def test_every_way_of_narrowing_denies_patterns(name: str, way: str) -> None:
    """A rule can come from the class, a base class, a mixin or the instance."""
    methods = dict.fromkeys({name, name.removeprefix("a")}, _anything)
    narrow: type[DefaultPolicy] = type("Narrow", (DefaultPolicy,), methods)
    if way == "derived":
        narrow = type("Derived", (narrow,), {})
    if way == "mixin":
        narrow = type("Mixed", (type("Mixin", (), methods), DefaultPolicy), {})
    policy = DefaultPolicy() if way == "instance" else narrow()
    if way == "instance":
        setattr(policy, name, _anything)
    request = request_of_root()
    to_publish = name in PUBLISH_METHODS
    for ask in (policy.can_grant_pattern, policy.grants_pattern):
        assert not ask(request, "*", to_publish=to_publish)
        assert ask(request, "*", to_publish=not to_publish)


def test_methods_that_decide_are_all_listed() -> None:
    """Fail if a method is added to the policies and not classified as one that decides or does not decide."""
    others = {
        *("can_grant_pattern", "grants_pattern", "can_broadcast", "depends_only_on_user", "overrides"),
        *("describe_readers", "denied_message", "denied_publish_message"),
    }
    methods = {name for each in (BasePolicy, DefaultPolicy) for name in vars(each) if not name.startswith("__")}
    assert methods == {*READ_METHODS, *PUBLISH_METHODS} | others


def test_rules_for_reading_and_publishing_count_apart() -> None:
    class Reads(DefaultPolicy):
        def denied_channels(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
            return list(channels)

    class Publishes(DefaultPolicy):
        def can_publish(self, request: HttpRequest, channel: str) -> bool:
            return False

    request = request_of_root()
    for policy, publishes in ((Reads(), True), (Publishes(), False)):
        assert policy.grants_pattern(request, "a.*", to_publish=True) is publishes
        assert policy.grants_pattern(request, "a.*", to_publish=False) is not publishes


def test_policy_that_changes_only_words_grants_patterns() -> None:
    class Words(DefaultPolicy):
        def denied_message(self, channels: Sequence[str]) -> str:
            return "No."

    request = request_of_root()
    assert Words().grants_pattern(request, "a.*", to_publish=False)
    assert Words().grants_pattern(request, "a.*", to_publish=True)


class GrantsRooms(NotTheSecretRoom):
    """Grant tokens for some patterns."""

    def can_grant_pattern(self, request: HttpRequest, pattern: str, *, to_publish: bool) -> bool:
        return pattern.startswith("room.") and not to_publish


class GrantsByTheDefault(NotTheSecretRoom):
    def can_grant_pattern(self, request: HttpRequest, pattern: str, *, to_publish: bool) -> bool:
        return super().can_grant_pattern(request, pattern, to_publish=to_publish)


class NarrowerThanThat(GrantsRooms):
    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return channel != "room.7" and super().can_subscribe(request, channel)


@pytest.mark.parametrize(
    ("policy", "status"), [("GrantsRooms", 201), ("GrantsByTheDefault", 403), ("NarrowerThanThat", 403)]
)
def test_policy_that_says_so_grants_patterns(policy: str, status: int) -> None:
    """The policy must override can_grant_pattern() itself, in the class with the newest rule or below it."""
    staff = key(user("boss", "view_message", "add_message", is_staff=True))
    with override_settings(STREAMS={"POLICY": f"{__name__}.{policy}"}):
        assert post(TOKENS, {"read": ["room.*"]}, staff).status_code == status
        assert post(TOKENS, {"read": ["*"]}, staff).status_code == 403
        assert post(TOKENS, {"publish": ["room.*"]}, staff).status_code == 403


@pytest.mark.parametrize("to_publish", [False, True])
def test_policy_from_the_base_class_grants_no_patterns(to_publish: bool) -> None:
    policy = type("Own", (BasePolicy,), {"can_subscribe": lambda *_: True, "can_publish": lambda *_: True})()
    request = request_of_root()
    assert not policy.can_grant_pattern(request, "a.*", to_publish=to_publish)
    assert not policy.grants_pattern(request, "a.*", to_publish=to_publish)


# --- Use of a token ---------------------------------------------------------------------------------------------------


class ClosedView(EventStreamView):
    """Refuse one channel to every request, with or without a token."""

    class Policy(DefaultPolicy):
        def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
            return channel != SECRET and super().can_subscribe(request, channel)

    def get_policy(self) -> BasePolicy:
        return self.Policy()


urlpatterns = [path("closed/<str:channel>/", ClosedView.as_view())]


@pytest.mark.django_db(transaction=True)
async def test_views_own_policy_is_asked_with_a_pattern_token() -> None:
    token = make_token(read=["*"])
    with override_settings(ROOT_URLCONF=__name__):
        client = AsyncClient()
        assert (await client.head(f"/closed/{SECRET}/?token={token}")).status_code == 403
        assert (await client.head(f"/closed/other.room/?token={token}")).status_code == 200


@pytest.mark.django_db(transaction=True)
@override_settings(STREAMS={"POLICY": f"{__name__}.NotTheSecretRoom"})
async def test_pattern_token_made_earlier_is_judged_alone() -> None:
    """The token works until it expires or is revoked, because a rule about the user does not apply to it."""
    token = make_token(read=["secret.*"])
    client = AsyncClient()
    assert (await client.head(f"/events/{SECRET}/?token={token}")).status_code == 200
    assert (await client.head(f"/events/other.room/?token={token}")).status_code == 403
