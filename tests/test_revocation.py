"""What tells of somebody who may not read any more, and to whom it applies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.http import HttpRequest
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.utils.functional import SimpleLazyObject

from streams import adisconnect, apublish, disconnect
from streams.admission import NOBODY, Admission, known_user
from streams.exceptions import InvalidChannel
from streams.models import ChannelSettings
from streams.notifiers import BaseNotifier, Notice, Revocation
from streams.policies import BasePolicy, DefaultPolicy
from streams.rechecks import AGAIN_SECONDS, CATCH_UP_SECONDS
from streams.revocation import announce, mark_of_session
from streams.subscriber import Subscriber
from streams.testing import read_events
from streams.tokens import make_token, read_token

pytestmark = pytest.mark.django_db(transaction=True)

told: list[Revocation] = []


class Recording(BaseNotifier):
    def notify(self, notice: Notice) -> None:
        assert notice.revocation is not None
        assert (notice.first, notice.last, notice.messages) == (0, 0, ())
        told.append(notice.revocation)

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        yield None


@pytest.fixture
def notices() -> Iterator[list[Revocation]]:
    told.clear()
    with override_settings(STREAMS={"NOTIFIER": {"BACKEND": f"{__name__}.Recording"}}):
        yield told


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ann", password="one")


# --- What is told -----------------------------------------------------------------------------------------------------


def test_disconnect_tells_what_was_named(notices: list[Revocation], user: User) -> None:
    disconnect(user=user)
    disconnect(user=7, channel="a")
    disconnect(token="id-of-a-token")
    text = make_token(read=["a"])
    disconnect(token=text)
    assert notices == [
        Revocation(ends=True, user=str(user.pk)),
        Revocation(ends=True, user="7", channel="a"),
        Revocation(ends=True, token="id-of-a-token"),
        Revocation(ends=True, token=read_token(text).id),
    ]


async def test_disconnect_on_an_event_loop_is_awaited(notices: list[Revocation]) -> None:
    with pytest.raises(SynchronousOnlyOperation, match="await adisconnect"):
        disconnect(user=7)
    await adisconnect(channel="a")
    assert notices == [Revocation(ends=True, channel="a")]


@pytest.mark.parametrize(
    ("named", "error", "words"),
    [
        ({}, ValueError, "a user, a channel or a token"),
        ({"channel": "no room"}, InvalidChannel, "no room"),
        ({"token": "streams.forged"}, ValueError, "opens no stream"),
    ],
)
def test_disconnect_refuses_what_means_nothing(
    notices: list[Revocation], named: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        disconnect(**named)
    assert notices == []


def test_nothing_is_told_of_what_is_rolled_back(notices: list[Revocation], user: User) -> None:
    with transaction.atomic():
        user.delete()
        disconnect(channel="a")
        assert notices == []
        transaction.set_rollback(True)
    assert notices == []
    with transaction.atomic():
        disconnect(channel="a")
    assert notices == [Revocation(ends=True, channel="a")]


CHANGES: dict[str, tuple[Callable[[User], object], Callable[[User], list[Revocation]]]] = {
    "saved": (lambda user: user.save(), lambda user: [Revocation(user=str(user.pk))]),
    "logged in": (lambda user: user.save(update_fields=["last_login"]), lambda user: []),
    "created": (lambda user: User.objects.create_user("bob"), lambda user: []),
    "joined a group": (
        lambda user: user.groups.add(Group.objects.create(name="a")),
        lambda user: [Revocation(user=str(user.pk))],
    ),
    "from the group's side": (
        lambda user: Group.objects.create(name="a").user_set.add(user),
        lambda user: [Revocation(user=str(user.pk))],
    ),
    "emptied a group": (lambda user: Group.objects.create(name="a").user_set.clear(), lambda user: [Revocation()]),
    "was given a permission": (
        lambda user: user.user_permissions.set(Permission.objects.all()[:1]),
        lambda user: [Revocation(user=str(user.pk))],
    ),
    "a group was": (
        lambda user: Group.objects.create(name="a").permissions.set(Permission.objects.all()[:1]),
        lambda user: [Revocation()],
    ),
    "a group went": (lambda user: Group.objects.create(name="a").delete(), lambda user: [Revocation()]),
    "a channel was settled": (
        lambda user: ChannelSettings.objects.create(channel="club").groups.set([Group.objects.create(name="a")]),
        lambda user: [Revocation(channel="club")] * 2,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_told_by_themselves(notices: list[Revocation], user: User, name: str) -> None:
    change, expected = CHANGES[name]
    change(user)
    assert notices == expected(user)


def test_logout_tells_the_sessions_mark_and_not_its_key(notices: list[Revocation], user: User) -> None:
    client = Client()
    client.force_login(user)
    key = client.session.session_key
    notices.clear()
    client.logout()
    assert notices == [Revocation(ends=True, session=mark_of_session(key))]
    assert key not in repr(notices)


class Broken(Recording):
    def notify(self, notice: Notice) -> None:
        raise ConnectionError("no bus")


def test_notifier_that_fails_fails_nobody_who_changes_something(user: User, caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(STREAMS={"NOTIFIER": {"BACKEND": f"{__name__}.Broken"}}):
        user.save()
        user.save()
        disconnect(user=user)
    assert [record.message for record in caplog.records if record.exc_info] == [
        "The notifier failed; open streams are looked at every RECHECK_SECONDS."
    ]


class Deaf(BaseNotifier):
    """Fails when told to, and can be listened to again."""

    fail: asyncio.Event

    def notify(self, notice: Notice) -> None:
        raise AssertionError("nothing is told")

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        yield None
        await Deaf.fail.wait()
        Deaf.fail.clear()
        raise ConnectionError("gone")


@pytest.fixture
def restless() -> Iterator[None]:
    """Nobody is asked about because time has passed."""
    with override_settings(STREAMS={"RECHECK_SECONDS": None, "NOTIFIER": {"BACKEND": f"{__name__}.Deaf"}}):
        yield


async def test_everybody_is_looked_at_when_the_notifier_is_heard_again(restless: None, user: User) -> None:
    Deaf.fail = asyncio.Event()
    client = AsyncClient()
    await client.aforce_login(user)
    response = await client.get(f"/events/user.{user.pk}/")
    stream = aiter(response)
    await anext(stream)
    await asyncio.sleep(CATCH_UP_SECONDS + 1.5)  # it was looked at when the hub began to hear
    await User.objects.aupdate(is_active=False)
    Deaf.fail.set()
    async with asyncio.timeout(30):
        assert b"revoked" in b"".join([chunk async for chunk in stream])


async def test_stream_that_was_on_its_way_when_a_notice_came_is_looked_at(user: User) -> None:
    with override_settings(STREAMS={"RECHECK_SECONDS": None, "PUBLIC_CHANNELS": ["news"]}):
        client = AsyncClient()
        await client.aforce_login(user)
        public = await client.get("/events/news/")  # a hub runs, and hears
        await asyncio.sleep(AGAIN_SECONDS + 0.5)
        await sync_to_async(announce)(Revocation(user=str(user.pk)))
        private = await client.get(f"/events/user.{user.pk}/")
        await User.objects.aupdate(is_active=False)
        events = await read_events(private, 9, timeout=20, control=True)
        assert [event.event for event in events] == ["stream-checkpoint", "stream-error"]
        await public.aclose()


async def test_snapshot_that_was_being_taken_is_not_sent_to_who_may_not_read_any_more() -> None:
    async def snapshot() -> object:
        subscriber.refuse()
        return "secret"

    subscriber = Subscriber(["news"], snapshot=snapshot)
    sent = b"".join([chunk async for chunk in subscriber])
    await subscriber.aclose()
    assert b"revoked" in sent
    assert b"secret" not in sent


# --- Whom it concerns -------------------------------------------------------------------------------------------------


class Everyone(BasePolicy):
    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return True


def request_of(user: Any, **session: Any) -> HttpRequest:
    request = RequestFactory().get("/")
    request.user = user
    return request


def test_revocation_concerns_those_for_whom_all_that_it_names_holds(user: User) -> None:
    admission = Admission(request_of(user), ("a", "b"), Everyone())
    pk = str(user.pk)
    assert [
        admission.is_concerned(revocation)
        for revocation in (
            Revocation(),
            Revocation(user=pk),
            Revocation(user=pk, channel="b"),
            Revocation(user=pk, channel="c"),
            Revocation(channel="c"),
            Revocation(user="0"),
            Revocation(token="x"),
            Revocation(session="x"),
        )
    ] == [True, True, True, False, False, False, False, False]
    nobody = Admission(request_of(AnonymousUser()), ("a",), Everyone())
    assert (nobody.user, nobody.is_concerned(Revocation(user=pk))) == (NOBODY, False)


def test_user_whom_nobody_has_looked_at_is_not_looked_at() -> None:
    def look() -> Any:
        raise AssertionError("the user was looked at")

    assert known_user(request_of(SimpleLazyObject(look))) is None
    assert known_user(RequestFactory().get("/")) == NOBODY


async def test_user_of_another_middleware_is_looked_at_again(user: User) -> None:
    """From what it has come is not known to us; whether it is active is."""
    admission = Admission(request_of(user), ("a",), Everyone())
    assert await admission.holds()
    await get_user_model().objects.aupdate(is_active=False)
    assert not await admission.holds()


async def test_policy_is_asked_with_what_the_request_had(user: User) -> None:
    class ByHeader(DefaultPolicy):
        def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
            seen.append((request.headers.get("Tenant"), request.user.pk, request.resolver_match))
            return True

    seen: list[Any] = []
    request = RequestFactory().get("/", headers={"Tenant": "one"})
    request.user, request.resolver_match = user, "match"  # type: ignore[assignment]
    assert await Admission(request, ("a",), ByHeader()).holds()
    assert seen == [("one", user.pk, "match")]


# --- Streams ----------------------------------------------------------------------------------------------------------


@override_settings(STREAMS={})
async def test_stream_of_a_deactivated_user_ends_and_says_so(user: User) -> None:
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
async def test_logout_ends_the_sessions_streams_and_no_others(user: User) -> None:
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
