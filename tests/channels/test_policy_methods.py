"""The sync and async methods of a policy give every caller the same answer, or the policy is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.test import AsyncClient, RequestFactory, override_settings

from streams.channels.policy_methods import PUBLISH_METHODS, READ_METHODS, contradictions
from streams.policies import BasePolicy, DefaultPolicy, get_policy
from streams.tokens import make_token

pytestmark = pytest.mark.django_db(transaction=True)

METHODS = [*READ_METHODS, *PUBLISH_METHODS]
SYNC = [name for name in METHODS if not name.startswith("a")]
ASYNC = [name for name in METHODS if name.startswith("a")]


def anonymous_request() -> HttpRequest:
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    return request


@pytest.fixture(autouse=True)
def _open_channels() -> Iterator[None]:
    with override_settings(STREAMS={"PUBLIC_CHANNELS": ["open", "closed"]}):
        yield


def rule(name: str, decide: Callable[[str], bool] = lambda channel: channel == "open") -> Any:
    """Return a policy method with this name that allows the channels for which `decide` returns True."""

    def one(self: Any, request: HttpRequest, channel: str) -> bool:
        return decide(channel)

    def many(self: Any, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        return [channel for channel in channels if not decide(channel)]

    sync = many if "denied" in name else one

    async def twin(self: Any, request: HttpRequest, names: Any) -> Any:
        return sync(self, request, names)

    return twin if name.startswith("a") else sync


def subclass(base: type, *names: str, decide: Callable[[str], bool] = lambda channel: channel == "open") -> type:
    return type("Own", (base,), {name: rule(name, decide) for name in names})


def with_twin(name: str) -> tuple[str, ...]:
    return (name, name.removeprefix("a")) if name in ASYNC else (name,)


async def answers(policy: BasePolicy, channels: list[str], name: str = "can_subscribe") -> list[list[str]]:
    """Return the channels that sync and async callers are denied, for reading or publishing depending on `name`."""
    request = anonymous_request()
    denied = policy.denied_channels if name in READ_METHODS else policy.denied_publish_channels
    adenied = policy.adenied_channels if name in READ_METHODS else policy.adenied_publish_channels
    return [await sync_to_async(denied)(request, channels), await adenied(request, channels)]


BASES = pytest.mark.parametrize("base", [BasePolicy, DefaultPolicy])


# --- Rules that hold for every caller ---------------------------------------------------------------------------------


@BASES
@pytest.mark.parametrize("name", METHODS)
async def test_override_is_obeyed_by_every_caller(base: type, name: str) -> None:
    policy = subclass(base, *with_twin(name))
    for each in (policy, type("Derived", (policy,), {})):
        assert await answers(each(), ["open", "closed"], name) == [["closed"], ["closed"]]


@pytest.mark.parametrize("before", METHODS)
@pytest.mark.parametrize("after", METHODS)
async def test_stricter_subclass_is_obeyed_or_refused(before: str, after: str) -> None:
    """A looser rule of a base class never replaces the rule of a subclass, for any caller."""
    if (before in READ_METHODS) is not (after in READ_METHODS):
        return
    lax = subclass(DefaultPolicy, *with_twin(before), decide=lambda channel: True)
    strict = subclass(lax, *with_twin(after))
    if list(contradictions(strict)):
        with pytest.raises(ImproperlyConfigured, match=f"Override a?{before.removeprefix('a')} in Own as well"):
            strict()
    else:
        assert await answers(strict(), ["open", "closed"], after) == [["closed"], ["closed"]]


@pytest.mark.parametrize("name", METHODS)
async def test_method_can_call_the_one_that_it_overrides(name: str) -> None:
    def sync(self: Any, request: HttpRequest, names: Any) -> Any:
        return getattr(super(Own, self), name.removeprefix("a"))(request, names)

    async def twin(self: Any, request: HttpRequest, names: Any) -> Any:
        return await getattr(super(Own, self), name)(request, names)

    Own = type("Own", (DefaultPolicy,), {name.removeprefix("a"): sync} | ({name: twin} if name in ASYNC else {}))
    assert await answers(Own(), ["open", "other"]) == [["other"], ["other"]]
    assert await answers(Own(), ["open"], "can_publish") == [["open"], ["open"]]


@BASES
@pytest.mark.parametrize("name", ASYNC)
async def test_async_rule_serves_sync_callers_through_async_to_sync(base: type, name: str) -> None:
    """The documentation shows this pattern. The async method can also call the rule of the base class."""
    twin, decided = name.removeprefix("a"), rule(name)

    async def acall(self: Any, request: HttpRequest, names: Any) -> Any:
        await sync_to_async(getattr(super(Own, self), twin))(request, names)
        return await decided(self, request, names)

    def sync(self: Any, request: HttpRequest, names: Any) -> Any:
        return async_to_sync(getattr(self, name))(request, names)

    Own = type("Own", (base,), {name: acall, twin: sync})
    assert await answers(Own(), ["open", "closed"], name) == [["closed"], ["closed"]]


@BASES
async def test_async_override_needs_no_thread(base: type) -> None:
    class Own(base):  # type: ignore[misc,valid-type]
        def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
            raise AssertionError("the async method must be used")

        can_publish = can_subscribe

        async def acan_subscribe(self, request: HttpRequest, channel: str) -> bool:
            return channel == "open"

        acan_publish = acan_subscribe

    policy, request = Own(), anonymous_request()
    assert await policy.adenied_channels(request, ["open", "closed"]) == ["closed"]
    assert await policy.adenied_publish_channels(request, ["open", "closed"]) == ["closed"]


class Noting(BasePolicy):
    """Record each channel and the thread of the call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        self.calls.append((channel, threading.get_ident()))
        return channel.startswith("a")

    can_publish = can_subscribe


async def test_sync_policy_decides_all_channels_in_one_thread() -> None:
    policy, request = Noting(), anonymous_request()
    assert await policy.adenied_channels(request, ["a1", "b", "a2"]) == ["b"]
    assert await policy.adenied_publish_channels(request, ["b", "a1"]) == ["b"]
    assert [channel for channel, _ in policy.calls] == ["a1", "b", "a2", "b", "a1"]
    assert len({thread for _, thread in policy.calls}) == 1
    assert threading.get_ident() not in {thread for _, thread in policy.calls}


async def test_override_for_many_channels_decides_alone() -> None:
    names = ("denied_channels", "can_subscribe", "acan_subscribe")
    policy = subclass(DefaultPolicy, *names)
    setattr(policy, "denied_channels", rule("denied_channels", lambda channel: channel == "closed"))  # noqa: B010
    assert await answers(policy(), ["open", "closed"]) == [["open"], ["open"]]


async def test_denying_with_the_base_class_method_closes_public_channels() -> None:
    """The fast path for public channels applies only to DefaultPolicy's method, not to BasePolicy's."""
    policy = type("Closed", (DefaultPolicy,), {"can_subscribe": BasePolicy.can_subscribe})
    assert await answers(policy(), ["open"]) == [["open"], ["open"]]


@pytest.mark.parametrize("name", METHODS)
async def test_override_is_obeyed_for_a_token(name: str) -> None:
    """A token is checked without a thread only if the policy overrides no rule."""
    policy = subclass(DefaultPolicy, *with_twin(name), decide=lambda channel: False)()
    request = RequestFactory().get("/", {"token": make_token(read=["a"], publish=["a"])})
    reads = name in READ_METHODS
    adenied = policy.adenied_channels if reads else policy.adenied_publish_channels
    assert await adenied(request, ["a"]) == ["a"]


@pytest.mark.parametrize("name", PUBLISH_METHODS)
def test_broadcasts_go_by_the_rule_for_publishing(name: str) -> None:
    policy = subclass(BasePolicy, *with_twin(name))()
    assert policy.can_broadcast(anonymous_request(), "open")
    assert not policy.can_broadcast(anonymous_request(), "closed")


# --- Contradictions ---------------------------------------------------------------------------------------------------


@BASES
@pytest.mark.parametrize("name", ASYNC)
def test_async_override_alone_is_refused(base: type, name: str) -> None:
    twin = name.removeprefix("a")
    policy = subclass(base, name)
    owner = base if twin in vars(base) else BasePolicy
    problem = (
        f"Own overrides {name}, but inherits {twin} from {owner.__name__}, which can answer differently. "
        f"Override {twin} in Own as well."
    )
    assert list(contradictions(policy)) == [problem]
    for each in (policy, type("Derived", (policy,), {})):
        with pytest.raises(ImproperlyConfigured) as error:
            each()
        assert str(error.value) == problem


@pytest.mark.parametrize("name", SYNC)
def test_coroutine_of_a_sync_method_is_refused(name: str) -> None:
    """A coroutine is truthy, and would allow everything."""
    policy = type("Own", (DefaultPolicy,), {name: rule(f"a{name}")})
    with pytest.raises(ImproperlyConfigured, match=f"Own.{name} is an async method, but must be a sync one."):
        policy()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["can_subscribe", "acan_subscribe"], "can_subscribe"),
        (["denied_channels"], "can_subscribe"),
        (["denied_channels", "adenied_channels"], "denied_channels"),
        (["can_publish", "acan_publish"], "can_publish"),
        (["denied_publish_channels"], "can_publish"),
    ],
)
def test_override_below_a_method_that_ignores_it_is_refused(before: list[str], after: str) -> None:
    base = type("Lax", (DefaultPolicy,), {name: rule(name, lambda channel: True) for name in before})
    base()
    with pytest.raises(ImproperlyConfigured, match=f"Own overrides {after}, but inherits {before[-1]} from Lax"):
        subclass(base, after)()


@pytest.mark.parametrize("side", [0, 1])
def test_async_half_of_a_mixin_is_refused_on_either_side(side: int) -> None:
    plain = type("Mixin", (), {"acan_subscribe": rule("acan_subscribe")})
    policy = type("Mixin", (BasePolicy,), {name: rule(name) for name in ("can_subscribe", "acan_subscribe")})
    bases = [(plain, DefaultPolicy), (subclass(DefaultPolicy, "can_publish"), policy)][side]
    with pytest.raises(ImproperlyConfigured, match="can answer differently"):
        type("Own", bases, {})()


def test_both_halves_in_the_same_class_are_accepted() -> None:
    for names in (READ_METHODS, PUBLISH_METHODS, METHODS):
        subclass(subclass(DefaultPolicy, *names), *names)()
    assert not [*contradictions(BasePolicy), *contradictions(DefaultPolicy)]


async def test_override_for_many_channels_is_accepted_below_one_for_single_channels() -> None:
    lax = subclass(DefaultPolicy, "can_subscribe", "acan_subscribe", decide=lambda channel: True)
    assert await answers(subclass(lax, "denied_channels")(), ["open", "closed"]) == [["closed"], ["closed"]]


class AsyncAlone(DefaultPolicy):
    async def acan_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return False


async def test_contradictory_policy_serves_no_stream() -> None:
    with override_settings(STREAMS={"POLICY": f"{__name__}.AsyncAlone", "PUBLIC_CHANNELS": ["open"]}):
        with pytest.raises(ImproperlyConfigured):
            get_policy()
        answer = await AsyncClient(raise_request_exception=False).get("/events/open/")
        assert answer.status_code == 500
