"""Rechecks of access: the streams of one session share a decision if their policy depends only on the user."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest
from django.test import AsyncClient, override_settings

from streams import adisconnect
from streams.access.revocation import announce
from streams.channels.policy_methods import READ_METHODS
from streams.delivery import rechecks
from streams.delivery.hub import Hub
from streams.models import ChannelSettings
from streams.notifiers import Revocation
from streams.policies import BasePolicy, DefaultPolicy
from streams.testing import read_events
from streams.tokens import make_token

pytestmark = pytest.mark.django_db(transaction=True)

STREAMS: dict[str, Any] = {"RECHECK_SECONDS": None, "PUBLIC_CHANNELS": ["public"]}


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    with override_settings(STREAMS=STREAMS):
        yield


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ann", password="one")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the keys of the sessions that are loaded from the database."""
    real, loaded = SessionStore.load, []

    def load(self: SessionStore) -> Any:
        loaded.append(self.session_key)
        return real(self)

    monkeypatch.setattr(SessionStore, "load", load)
    return loaded


async def signed_in(user: User) -> AsyncClient:
    client = AsyncClient()
    await client.aforce_login(user)
    return client


async def opened(client: AsyncClient, *channels: str, **headers: str) -> Any:
    query = "&".join(f"channel={channel}" for channel in channels)
    response = await client.get(f"/events/?{query}", headers=headers)
    assert response.status_code == 200
    return response


async def ends(response: Any) -> bool:
    """Return True if the stream ends with a `stream-error` event."""
    events = await read_events(response, 9, timeout=20, control=True)
    return events[-1].event == "stream-error"


async def judge_all() -> None:
    """Recheck every stream of this process once, as it happens every RECHECK_SECONDS, and wait for the result."""
    hub = Hub.running()
    assert hub is not None
    for subscriber in hub.subscribers:
        subscriber.recheck_at = 0.0
    hub._rechecks.tick()
    async with asyncio.timeout(30):
        while hub._rechecks._tasks:
            await asyncio.sleep(0.01)


def open_channels() -> list[tuple[str, ...]]:
    """Return the channels of the streams whose access was not revoked."""
    hub = Hub.running()
    assert hub is not None
    return sorted(subscriber.channels for subscriber in hub.subscribers if not subscriber._revoked)


async def settings_for(channel: str, access: str) -> None:
    await sync_to_async(ChannelSettings.objects.update_or_create)(channel=channel, defaults={"access": access})


# --- What is shared ---------------------------------------------------------------------------------------------------


async def test_streams_of_one_session_are_judged_together(user: User, loads: list[str]) -> None:
    client = await signed_in(user)
    responses = [await opened(client, f"user.{user.pk}") for _ in range(20)]
    loads.clear()
    await judge_all()
    assert len(loads) == 1
    for response in responses:
        await response.aclose()


async def test_stream_that_is_due_takes_the_others_along(user: User) -> None:
    client = await signed_in(user)
    responses = [await opened(client, f"user.{user.pk}") for _ in range(3)]
    hub = Hub.running()
    assert hub is not None
    with override_settings(STREAMS={**STREAMS, "RECHECK_SECONDS": 100}):
        first, *others = hub.subscribers
        for other in others:
            other.recheck_at = 1e9  # not due
        first.recheck_at = 0.0
        hub._rechecks.tick()
        async with asyncio.timeout(30):
            while any(other.recheck_at >= 1e9 for other in others):
                await asyncio.sleep(0.01)
    for response in responses:
        await response.aclose()


async def test_each_stream_is_judged_by_its_own_channels(user: User) -> None:
    for channel in ("kept", "lost"):
        await settings_for(channel, ChannelSettings.Access.LOGGED_IN)
    client = await signed_in(user)
    kept, lost, both = [await opened(client, *names) for names in (("kept",), ("lost",), ("kept", "lost"))]
    await settings_for("lost", ChannelSettings.Access.STAFF)
    assert await ends(lost)
    assert await ends(both)
    await judge_all()
    assert open_channels() == [("kept",)]
    await kept.aclose()


async def test_all_streams_of_a_session_end_with_their_user(user: User) -> None:
    client = await signed_in(user)
    responses = [await opened(client, f"user.{user.pk}") for _ in range(5)]
    user.is_active = False
    await user.asave()
    assert all(await asyncio.gather(*(ends(response) for response in responses)))


async def test_public_streams_of_a_seen_user_end_with_it(user: User) -> None:
    """Public streams whose user was never loaded continue, because they are open to everyone."""
    client = await signed_in(user)
    private, public = await opened(client, f"user.{user.pk}", "public"), await opened(client, "public")
    await User.objects.aupdate(is_active=False)
    await judge_all()
    assert open_channels() == [("public",)]
    assert await ends(private)
    await public.aclose()


async def test_streams_whose_user_has_to_be_found_end_together(user: User) -> None:
    """disconnect(user=…) also ends the user's public streams, whose users are not known yet."""
    client, other = await signed_in(user), await signed_in(await User.objects.acreate(username="bob"))
    responses = [await opened(client, "public") for _ in range(3)]
    of_bob = await opened(other, "public")
    await adisconnect(user=user)
    assert all(await asyncio.gather(*(ends(response) for response in responses)))
    await judge_all()
    assert open_channels() == [("public",)]
    await of_bob.aclose()


async def test_change_during_a_decision_is_asked_about_again(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision is repeated even for streams that shared it before they were due."""
    client = await signed_in(user)
    responses = [await opened(client, f"user.{user.pk}") for _ in range(3)]
    real, began, go_on = rechecks.are_still_authorized, asyncio.Event(), asyncio.Event()

    async def check(streams: Any) -> list[bool]:
        holding = await real(streams)
        began.set()
        await go_on.wait()
        return holding

    monkeypatch.setattr(rechecks, "are_still_authorized", check)
    judging = asyncio.create_task(judge_all())
    await began.wait()
    user.is_active = False
    await user.asave()
    await asyncio.sleep(2 * rechecks.GATHER_SECONDS)
    go_on.set()
    assert all(await asyncio.gather(*(ends(response) for response in responses)))
    await judging


# --- What is not shared -----------------------------------------------------------------------------------------------


async def test_sessions_are_judged_apart(user: User, loads: list[str]) -> None:
    clients = [await signed_in(user) for _ in range(3)]
    responses = [await opened(client, f"user.{user.pk}") for client in clients for _ in range(2)]
    loads.clear()
    await judge_all()
    assert len(loads) == len(set(loads)) == 3
    await SessionStore(loads[0]).adelete()
    await judge_all()
    assert len(open_channels()) == 4
    for response in responses:
        await response.aclose()


class ByTenant(BasePolicy):
    """A policy that depends on a header and not only on the user."""

    closed: str | None = None

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return bool(request.user.is_authenticated and request.headers["Tenant"] != self.closed)


async def test_policy_of_the_site_is_asked_for_each_stream(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    with override_settings(STREAMS={**STREAMS, "POLICY": f"{__name__}.ByTenant"}):
        client = await signed_in(user)
        one, two = await opened(client, "a", Tenant="one"), await opened(client, "a", Tenant="two")
        monkeypatch.setattr(ByTenant, "closed", "two")
        await sync_to_async(announce)(Revocation(channel="a"))
        assert await ends(two)
        await judge_all()
        assert open_channels() == [("a",)]
        await one.aclose()


async def test_token_and_session_are_judged_apart(user: User) -> None:
    client = await signed_in(user)
    token = make_token(read=["a"], user=user)
    by_token = await client.get("/events/a/", {"token": token})
    by_session = await opened(client, f"user.{user.pk}")
    hub = Hub.running()
    assert hub is not None
    keys = {subscriber.admission.shared_key for subscriber in hub.subscribers if subscriber.admission}
    assert len(keys) == 2
    assert None not in keys
    await adisconnect(token=token)
    assert await ends(by_token)
    await judge_all()
    assert open_channels() == [(f"user.{user.pk}",)]
    await by_session.aclose()


def test_policies_that_decide_otherwise_share_nothing() -> None:
    class Words(DefaultPolicy):
        def denied_message(self, channels: Any) -> str:
            return "No."

    assert DefaultPolicy().depends_only_on_user()
    assert Words().depends_only_on_user(), "its decisions are those of DefaultPolicy"
    assert not BasePolicy().depends_only_on_user()
    for name in READ_METHODS:
        changed = type("Changed", (DefaultPolicy,), dict.fromkeys({name, name.removeprefix("a")}, lambda *args: None))
        assert not changed().depends_only_on_user(), name
        changed_itself = DefaultPolicy()
        setattr(changed_itself, name, lambda *args: None)
        assert not changed_itself.depends_only_on_user(), name


async def test_each_decision_covers_other_streams(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """One decision cannot cover them all. If each covered the same ones, all streams would need one of their own."""
    monkeypatch.setattr("streams.delivery.rechecks.MAX_SHARING", 5)
    client = await signed_in(user)
    responses = [await opened(client, "public") for _ in range(20)]
    hub = Hub.running()
    assert hub is not None
    admissions = {each: each.admission for each in hub.subscribers if each.admission is not None}
    began = time.monotonic()
    for _ in range(4):
        next_due = min(admissions, key=lambda each: admissions[each].decided_at)
        next_due.recheck_at = 0.0
        hub._rechecks.tick()
        async with asyncio.timeout(30):
            while hub._rechecks._tasks:
                await asyncio.sleep(0.01)
    assert all(admission.decided_at >= began for admission in admissions.values())
    for response in responses:
        await response.aclose()


async def test_streams_that_ended_are_forgotten(user: User) -> None:
    client = await signed_in(user)
    staying = await opened(client, "public")
    hub = Hub.running()
    assert hub is not None
    others = await signed_in(await User.objects.acreate(username="bob"))
    for response in [await opened(others, "public") for _ in range(3)]:
        await response.aclose()
    assert [len(sharing) for sharing in hub._rechecks._sharing.values()] == [1]
    await staying.aclose()
    assert hub._rechecks._sharing == {}
