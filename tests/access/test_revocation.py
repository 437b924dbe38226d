"""The changes that send a revocation to all processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.test import Client, override_settings

from streams import adisconnect, disconnect
from streams.access.revocation import session_fingerprint
from streams.exceptions import InvalidChannel
from streams.models import ChannelSettings
from streams.notifiers import BaseNotifier, Notice, Revocation
from streams.tokens import make_token, read_token
from tests.support.sites import Site, finish

pytestmark = pytest.mark.django_db(transaction=True)


sent: list[Revocation] = []


class Recording(BaseNotifier):
    """Keeps the revocations instead of sending them."""

    def notify(self, notice: Notice) -> None:
        assert notice.revocation is not None
        assert (notice.first, notice.last, notice.messages) == (0, 0, ())
        sent.append(notice.revocation)

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        yield None


@pytest.fixture
def notices() -> Iterator[list[Revocation]]:
    """Return the list of revocations that were sent."""
    sent.clear()
    with override_settings(STREAMS={"NOTIFIER": {"BACKEND": f"{__name__}.Recording"}}):
        yield sent


# --- disconnect() -----------------------------------------------------------------------------------------------------


def test_disconnect_sends_what_was_named(notices: list[Revocation], user: User) -> None:
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


async def test_disconnect_is_refused_on_event_loops(notices: list[Revocation]) -> None:
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
def test_disconnect_refuses_invalid_arguments(
    notices: list[Revocation], named: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        disconnect(**named)
    assert notices == []


def test_rolled_back_change_sends_nothing(notices: list[Revocation], user: User) -> None:
    with transaction.atomic():
        user.delete()
        disconnect(channel="a")
        assert notices == []
        transaction.set_rollback(True)
    assert notices == []
    with transaction.atomic():
        disconnect(channel="a")
    assert notices == [Revocation(ends=True, channel="a")]


# --- Changes of users, groups and sessions ----------------------------------------------------------------------------


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
def test_change_sends_a_revocation(notices: list[Revocation], user: User, name: str) -> None:
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

revocation.connect()  # as Django does after it has loaded all models
revocation._notify = lambda revocation: print(revocation.user)
ann = User.objects.create_user("ann")
Colleague.objects.get(pk=ann.pk).save()
"""


@pytest.mark.once
def test_saving_a_proxy_sends_a_revocation(sqlite_site: Site) -> None:
    """The test uses a separate process, because the model cannot be unregistered."""
    assert finish(sqlite_site.script(PROXY)).split() == ["1"]


def test_logout_sends_no_session_key(notices: list[Revocation], user: User) -> None:
    client = Client()
    client.force_login(user)
    key = client.session.session_key
    notices.clear()
    client.logout()
    assert notices == [Revocation(ends=True, session=session_fingerprint(key))]
    assert key not in repr(notices)


# --- A notifier that fails --------------------------------------------------------------------------------------------


class Broken(Recording):
    """Cannot reach its server."""

    def notify(self, notice: Notice) -> None:
        raise ConnectionError("no bus")


def test_failing_notifier_fails_no_change(user: User, caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(STREAMS={"NOTIFIER": {"BACKEND": f"{__name__}.Broken"}}):
        user.save()
        user.save()
        disconnect(user=user)
    assert [record.message for record in caplog.records if record.exc_info] == [
        "The notifier failed. Open streams are checked only every RECHECK_SECONDS."
    ]
