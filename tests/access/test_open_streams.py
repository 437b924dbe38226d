"""Open streams are checked again after a notice, and end if they are no longer allowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import Http404, HttpRequest
from django.test import AsyncClient, override_settings

from streams import adisconnect, apublish
from streams.access.revocation import announce
from streams.delivery import rechecks
from streams.delivery.rechecks import REPEAT_SECONDS
from streams.delivery.subscriber import Subscriber
from streams.notifiers import BaseNotifier, Notice, Revocation
from streams.policies import BasePolicy
from streams.testing import read_events

pytestmark = pytest.mark.django_db(transaction=True)


# --- Streams that end -------------------------------------------------------------------------------------------------


@override_settings(STREAMS={})
async def test_deactivation_ends_the_users_stream(user: User) -> None:
    client = AsyncClient()
    await client.aforce_login(user)
    path = f"/events/user.{user.pk}/"
    response = await client.get(path)
    await apublish(f"user.{user.pk}", "hello")
    user.is_active = False
    await user.asave()
    events = await read_events(response, 10, timeout=20, control=True)
    assert [event.event for event in events] == ["stream-checkpoint", "message", "stream-error"]
    assert (await client.get(path)).status_code == 403


@override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"]})
async def test_logout_ends_only_the_sessions_streams(user: User) -> None:
    leaving, staying = AsyncClient(), AsyncClient()
    for client in (leaving, staying):
        await client.aforce_login(user)
    path = f"/events/user.{user.pk}/"
    responses = [await client.get(path) for client in (leaving, staying)]
    await leaving.alogout()
    assert [event.event for event in await read_events(responses[0], 9, timeout=20, control=True)][-1] == "stream-error"
    await apublish(f"user.{user.pk}", "still here")
    [event] = await read_events(responses[1], 1, timeout=20)
    assert event.data == "still here"
    assert [(await client.get(path)).status_code for client in (leaving,)] == [403]


async def test_check_changes_no_session(user: User) -> None:
    """Django gives a session with an old SECRET_KEY a new key, but a check cannot send it to the client."""
    client = AsyncClient()
    with override_settings(SECRET_KEY="before"):
        await client.aforce_login(user)
    key = client.cookies["sessionid"].value
    with override_settings(SECRET_KEY_FALLBACKS=["before"], STREAMS={"PUBLIC_CHANNELS": ["news"]}):
        response = await client.get("/events/news/")
        await adisconnect(user=10**6)  # another user, so that the user of the stream is looked up
        await asyncio.sleep(1)
        assert await Session.objects.filter(session_key=key).aexists()
        await response.aclose()


@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies", STREAMS={})
async def test_logout_of_signed_cookie_ends_streams(user: User) -> None:
    """The session key is the cookie, which has changed since the stream was opened."""
    client = AsyncClient()
    await client.aforce_login(user)
    response = await client.get(f"/events/user.{user.pk}/")
    session = await client.asession()
    session["cart"] = 1
    await session.asave()
    client.cookies["sessionid"] = session.session_key
    await client.alogout()
    assert (await read_events(response, 9, timeout=20, control=True))[-1].event == "stream-error"


async def test_revoked_stream_sends_no_snapshot() -> None:
    async def snapshot() -> object:
        subscriber.revoke()
        return "secret"

    subscriber = Subscriber(["news"], snapshot=snapshot)
    sent = b"".join([chunk async for chunk in subscriber])
    await subscriber.aclose()
    assert b"revoked" in sent
    assert b"secret" not in sent


# --- When streams are checked -----------------------------------------------------------------------------------------


class Interrupted(BaseNotifier):
    """Fails once when `fail` is set, and then works again."""

    fail: asyncio.Event

    def notify(self, notice: Notice) -> None:
        raise AssertionError("no notice is sent")

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        yield None
        await Interrupted.fail.wait()
        Interrupted.fail.clear()
        raise ConnectionError("gone")


@pytest.fixture
def notices_only() -> Iterator[None]:
    """Turn off the periodic checks, so that only notices end streams."""
    with override_settings(STREAMS={"RECHECK_SECONDS": None, "NOTIFIER": {"BACKEND": f"{__name__}.Interrupted"}}):
        yield


async def test_streams_are_checked_after_notifier_outage(
    notices_only: None, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rechecks, "CATCH_UP_SECONDS", 0.5)
    Interrupted.fail = asyncio.Event()
    client = AsyncClient()
    await client.aforce_login(user)
    response = await client.get(f"/events/user.{user.pk}/")
    stream = aiter(response)
    await anext(stream)
    await asyncio.sleep(2)  # the hub checks the stream when it begins to listen
    await User.objects.aupdate(is_active=False)
    Interrupted.fail.set()
    async with asyncio.timeout(30):
        assert b"revoked" in b"".join([chunk async for chunk in stream])


async def test_stream_opened_after_notice_is_checked(user: User) -> None:
    with override_settings(STREAMS={"RECHECK_SECONDS": None, "PUBLIC_CHANNELS": ["news"]}):
        client = AsyncClient()
        await client.aforce_login(user)
        public = await client.get("/events/news/")  # starts a hub, which listens
        await asyncio.sleep(REPEAT_SECONDS + 0.5)
        await sync_to_async(announce)(Revocation(user=str(user.pk)))
        private = await client.get(f"/events/user.{user.pk}/")
        await User.objects.aupdate(is_active=False)
        events = await read_events(private, 9, timeout=20, control=True)
        assert [event.event for event in events] == ["stream-checkpoint", "stream-error"]
        await public.aclose()


class Slow(BasePolicy):
    """Allows active users, but answers only while `may_answer` is set. Sets `asked` when it is called."""

    may_answer: asyncio.Event
    asked = asyncio.Event()

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return async_to_sync(self.acan_subscribe)(request, channel)

    async def acan_subscribe(self, request: HttpRequest, channel: str) -> bool:
        user = await request.auser()
        self.asked.set()
        await self.may_answer.wait()
        return bool(user.is_active and user.is_authenticated)


async def test_stream_with_slow_policy_is_checked(user: User) -> None:
    """A notice that arrives while the policy is deciding finds no stream to end yet."""
    with override_settings(STREAMS={"RECHECK_SECONDS": None, "POLICY": f"{__name__}.Slow"}):
        client = AsyncClient()
        await client.aforce_login(user)
        Slow.may_answer = asyncio.Event()
        Slow.may_answer.set()
        other = await client.get("/events/a/")  # starts a hub, which listens
        await asyncio.sleep(0)
        Slow.may_answer.clear()
        Slow.asked.clear()
        asking = asyncio.create_task(client.get("/events/b/"))
        await Slow.asked.wait()
        user.is_active = False
        await user.asave()
        await asyncio.sleep(REPEAT_SECONDS + 0.5)
        Slow.may_answer.set()
        events = await read_events(await asking, 9, timeout=20, control=True)
        assert events[-1].event == "stream-error"
        await other.aclose()


# --- Policies that fail or hang ---------------------------------------------------------------------------------------


class Raising(BasePolicy):
    """Allows everything, or raises `error`."""

    error: Exception | None = None

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        if self.error is not None:
            raise self.error
        return True


@pytest.fixture
def raising() -> Iterator[type[Raising]]:
    Raising.error = None
    yield Raising
    Raising.error = None


@pytest.mark.parametrize("error", [PermissionDenied(), Http404(), KeyError("a mistake in it")])
async def test_policy_that_raises_ends_streams(raising: type[Raising], error: Exception, caplog: Any) -> None:
    with override_settings(STREAMS={"POLICY": f"{__name__}.Raising"}):
        response = await AsyncClient().get("/events/a/")
        raising.error = error
        await sync_to_async(announce)(Revocation(channel="a"))
        events = await read_events(response, 9, timeout=20, control=True)
    assert events[-1].event == "stream-error"
    logged = [record for record in caplog.records if record.exc_info]
    assert len(logged) == (1 if isinstance(error, KeyError) else 0), (
        "Django's exceptions for refusals are not logged as errors"
    )


@pytest.mark.parametrize("error", [OperationalError("away"), ConnectionError("away"), TimeoutError()])
async def test_outage_of_policy_ends_no_stream(raising: type[Raising], error: Exception) -> None:
    with override_settings(STREAMS={"POLICY": f"{__name__}.Raising"}):
        response = await AsyncClient().get("/events/a/")
        raising.error = error
        await sync_to_async(announce)(Revocation(channel="a"))
        await asyncio.sleep(0.5)
        raising.error = None
        await apublish("a", "still here")
        [event] = await read_events(response, 1, timeout=20)
        assert event.data == "still here"


async def test_hanging_policies_delay_others_briefly(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rechecks, "POLICY_TIMEOUT_SECONDS", 0.5)
    with override_settings(STREAMS={"RECHECK_SECONDS": None, "POLICY": f"{__name__}.Slow"}):
        client = AsyncClient()
        await client.aforce_login(user)
        Slow.may_answer = asyncio.Event()
        Slow.may_answer.set()
        responses = [await client.get(f"/events/a{n}/") for n in range(rechecks.MAX_WORKERS + 1)]
        Slow.may_answer.clear()
        await sync_to_async(announce)(Revocation(channel="a0"))
        for n in range(1, rechecks.MAX_WORKERS):
            await sync_to_async(announce)(Revocation(channel=f"a{n}"))
        await User.objects.aupdate(is_active=False)
        await sync_to_async(announce)(Revocation(channel=f"a{rechecks.MAX_WORKERS}"))
        # The user is no longer active, so the stream ends without a call of the policy.
        events = await read_events(responses[-1], 9, timeout=20, control=True)
        assert events[-1].event == "stream-error"
        Slow.may_answer.set()
        for response in responses:
            await response.aclose()
