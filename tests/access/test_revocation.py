"""What tells of somebody who may not read any more, and to whom it applies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.core.exceptions import PermissionDenied, SynchronousOnlyOperation
from django.db import OperationalError, transaction
from django.http import Http404, HttpRequest
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.utils.functional import SimpleLazyObject

from streams import adisconnect, apublish, disconnect
from streams.access.admission import ANONYMOUS, Admission, known_user
from streams.access.revocation import announce, session_fingerprint
from streams.delivery import rechecks
from streams.delivery.rechecks import REPEAT_SECONDS
from streams.delivery.subscriber import Subscriber
from streams.exceptions import InvalidChannel
from streams.models import ChannelSettings
from streams.notifiers import BaseNotifier, Notice, Revocation
from streams.policies import BasePolicy, DefaultPolicy
from streams.testing import read_events
from streams.tokens import make_token, read_token
from tests.support.sites import Site, finish

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
        ({"token": "streams.forged"}, ValueError, "opens no streams"),
        ({"token": "x" * 65}, ValueError, "1 to 64 characters; got 65"),
        ({"token": ""}, ValueError, "1 to 64 characters; got 0"),
        ({"user": ""}, ValueError, "a user who is in the database"),
        ({"user": User(username="not saved")}, ValueError, "a user who is in the database"),
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


PROXY = """
from django.contrib.auth.models import User
from streams.access import revocation

class Colleague(User):
    class Meta:
        proxy = True
        app_label = "auth"

revocation.connect()  # as when Django starts, and has loaded all models
revocation._notify = lambda revocation: print(revocation.user)
ann = User.objects.create_user("ann")
Colleague.objects.get(pk=ann.pk).save()
"""


@pytest.mark.once
def test_user_who_is_saved_as_a_proxy_is_told_of(sqlite_site: Site) -> None:
    """In a process of its own, for the model stays."""
    assert finish(sqlite_site.script(PROXY)).split() == ["1"]


def test_logout_tells_the_sessions_mark_and_not_its_key(notices: list[Revocation], user: User) -> None:
    client = Client()
    client.force_login(user)
    key = client.session.session_key
    notices.clear()
    client.logout()
    assert notices == [Revocation(ends=True, session=session_fingerprint(key))]
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
        "The notifier failed. Open streams are checked only every RECHECK_SECONDS."
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


async def test_everybody_is_looked_at_when_the_notifier_is_heard_again(
    restless: None, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rechecks, "CATCH_UP_SECONDS", 0.5)
    Deaf.fail = asyncio.Event()
    client = AsyncClient()
    await client.aforce_login(user)
    response = await client.get(f"/events/user.{user.pk}/")
    stream = aiter(response)
    await anext(stream)
    await asyncio.sleep(2)  # it was looked at when the hub began to hear
    await User.objects.aupdate(is_active=False)
    Deaf.fail.set()
    async with asyncio.timeout(30):
        assert b"revoked" in b"".join([chunk async for chunk in stream])


async def test_stream_that_was_on_its_way_when_a_notice_came_is_looked_at(user: User) -> None:
    with override_settings(STREAMS={"RECHECK_SECONDS": None, "PUBLIC_CHANNELS": ["news"]}):
        client = AsyncClient()
        await client.aforce_login(user)
        public = await client.get("/events/news/")  # a hub runs, and hears
        await asyncio.sleep(REPEAT_SECONDS + 0.5)
        await sync_to_async(announce)(Revocation(user=str(user.pk)))
        private = await client.get(f"/events/user.{user.pk}/")
        await User.objects.aupdate(is_active=False)
        events = await read_events(private, 9, timeout=20, control=True)
        assert [event.event for event in events] == ["stream-checkpoint", "stream-error"]
        await public.aclose()


async def test_snapshot_that_was_being_taken_is_not_sent_to_who_may_not_read_any_more() -> None:
    async def snapshot() -> object:
        subscriber.revoke()
        return "secret"

    subscriber = Subscriber(["news"], snapshot=snapshot)
    sent = b"".join([chunk async for chunk in subscriber])
    await subscriber.aclose()
    assert b"revoked" in sent
    assert b"secret" not in sent


async def test_stream_whose_policy_took_long_is_looked_at_again(user: User) -> None:
    """What was told while the policy made up its mind, nobody had a stream for yet."""
    with override_settings(STREAMS={"RECHECK_SECONDS": None, "POLICY": f"{__name__}.Slow"}):
        client = AsyncClient()
        await client.aforce_login(user)
        Slow.may_answer = asyncio.Event()
        Slow.may_answer.set()
        other = await client.get("/events/a/")  # a hub runs, and hears
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


class Slow(BasePolicy):
    may_answer: asyncio.Event
    asked = asyncio.Event()

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return async_to_sync(self.acan_subscribe)(request, channel)

    async def acan_subscribe(self, request: HttpRequest, channel: str) -> bool:
        user = await request.auser()
        self.asked.set()
        await self.may_answer.wait()
        return bool(user.is_active and user.is_authenticated)


# --- What a policy says -----------------------------------------------------------------------------------------------


class Moody(BasePolicy):
    """Admits, until it has something to raise."""

    error: Exception | None = None

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        if self.error is not None:
            raise self.error
        return True


@pytest.fixture
def moody() -> Iterator[type[Moody]]:
    Moody.error = None
    yield Moody
    Moody.error = None


@pytest.mark.parametrize("error", [PermissionDenied(), Http404(), KeyError("a mistake in it")])
async def test_policy_that_raises_admits_nobody_any_more(moody: type[Moody], error: Exception, caplog: Any) -> None:
    with override_settings(STREAMS={"POLICY": f"{__name__}.Moody"}):
        response = await AsyncClient().get("/events/a/")
        moody.error = error
        await sync_to_async(announce)(Revocation(channel="a"))
        events = await read_events(response, 9, timeout=20, control=True)
    assert events[-1].event == "stream-error"
    logged = [record for record in caplog.records if record.exc_info]
    assert len(logged) == (1 if isinstance(error, KeyError) else 0), "how Django refuses is no failure"


@pytest.mark.parametrize("error", [OperationalError("away"), ConnectionError("away"), TimeoutError()])
async def test_outage_of_what_a_policy_asks_is_no_revocation(moody: type[Moody], error: Exception) -> None:
    with override_settings(STREAMS={"POLICY": f"{__name__}.Moody"}):
        response = await AsyncClient().get("/events/a/")
        moody.error = error
        await sync_to_async(announce)(Revocation(channel="a"))
        await asyncio.sleep(0.5)
        moody.error = None
        await apublish("a", "still here")
        [event] = await read_events(response, 1, timeout=20)
        assert event.data == "still here"


async def test_policies_that_hang_hold_up_the_others_for_a_while_only(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        # It is refused by who it is, before the policy is asked.
        events = await read_events(responses[-1], 9, timeout=20, control=True)
        assert events[-1].event == "stream-error"
        Slow.may_answer.set()
        for response in responses:
            await response.aclose()


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
        admission.matches(revocation)
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
    assert (nobody.user, nobody.matches(Revocation(user=pk))) == (ANONYMOUS, False)


def test_user_whom_nobody_has_looked_at_is_not_looked_at() -> None:
    def look() -> Any:
        raise AssertionError("the user was looked at")

    assert known_user(request_of(SimpleLazyObject(look))) is None
    assert known_user(RequestFactory().get("/")) == ANONYMOUS


async def test_user_of_another_middleware_is_looked_at_again(user: User) -> None:
    """From what it has come is not known to us; whether it is active is."""
    admission = Admission(request_of(user), ("a",), Everyone())
    assert await admission.is_still_authorized()
    await get_user_model().objects.aupdate(is_active=False)
    assert not await admission.is_still_authorized()


class Active(BasePolicy):
    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        return bool(request.user.is_authenticated and request.user.is_active)


async def test_lazy_user_of_another_middleware_is_not_taken_for_the_sessions(user: User) -> None:
    """As those of tokens and of impersonation: with a session, which is somebody else's or nobody's, and without."""
    for session in (None, SessionStore()):
        lazy = SimpleLazyObject(lambda: User.objects.get(pk=user.pk))
        await sync_to_async(str)(lazy)
        request = request_of(lazy)
        if session is not None:
            request.session = session
            AuthenticationMiddleware(lambda request: None).process_request(request)  # type: ignore[arg-type]
            request.user = lazy
        admission = Admission(request, ("a",), Active())
        assert await admission.is_still_authorized()
        await User.objects.aupdate(is_active=False)
        assert not await admission.is_still_authorized()
        await User.objects.aupdate(is_active=True)


class Stateless:
    """A user of no table, as some middleware makes them of a token."""

    pk = 7
    is_authenticated = is_active = True


async def test_user_of_no_table_stays_what_it_is() -> None:
    assert await Admission(request_of(Stateless()), ("a",), Active()).is_still_authorized()


@override_settings(STREAMS={"POLICY": f"{__name__}.Active"})
async def test_token_in_the_url_does_not_keep_the_sessions_user_as_it_was(user: User) -> None:
    client = AsyncClient()
    await client.aforce_login(user)
    response = await client.get("/events/a/", {"token": make_token(read=["b"])})
    assert response.status_code == 200, "the policy looks at no token"
    user.is_active = False
    await user.asave()
    assert (await read_events(response, 9, timeout=20, control=True))[-1].event == "stream-error"


async def test_asking_again_changes_no_session(user: User) -> None:
    """Django renews a session whose user was signed with a key before. Here nobody would hear of the new one."""
    client = AsyncClient()
    with override_settings(SECRET_KEY="before"):
        await client.aforce_login(user)
    key = client.cookies["sessionid"].value
    with override_settings(SECRET_KEY_FALLBACKS=["before"], STREAMS={"PUBLIC_CHANNELS": ["news"]}):
        response = await client.get("/events/news/")
        await adisconnect(user=10**6)  # somebody else, so that it has to be found out whose stream it is
        await asyncio.sleep(1)
        assert await Session.objects.filter(session_key=key).aexists()
        await response.aclose()


@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies", STREAMS={})
async def test_logout_of_a_session_in_a_cookie_ends_its_streams_whatever_the_cookie_has_become(user: User) -> None:
    client = AsyncClient()
    await client.aforce_login(user)
    response = await client.get(f"/events/user.{user.pk}/")
    session = await client.asession()
    session["cart"] = 1
    await session.asave()
    client.cookies["sessionid"] = session.session_key
    await client.alogout()
    assert (await read_events(response, 9, timeout=20, control=True))[-1].event == "stream-error"


async def test_policy_is_asked_with_what_the_request_had(user: User) -> None:
    class ByHeader(DefaultPolicy):
        def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
            seen.append((request.headers.get("Tenant"), request.user.pk, request.resolver_match))
            return True

    seen: list[Any] = []
    request = RequestFactory().get("/", headers={"Tenant": "one"})
    request.user, request.resolver_match = user, "match"  # type: ignore[assignment]
    assert await Admission(request, ("a",), ByHeader()).is_still_authorized()
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
