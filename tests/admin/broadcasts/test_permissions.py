"""The permissions of the broadcast pages, and the limits that the policy sets."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission, User
from django.http import HttpRequest
from django.test import Client, override_settings

from streams.broadcasts import lifecycle
from streams.models import Broadcast, Message
from streams.policies import DefaultPolicy
from tests.admin.broadcasts.support import ALL, LIST, TEXT, State, attempts, browser, draft, local, tomorrow

pytestmark = pytest.mark.django_db


ONE_PERMISSION_ALLOWS = {
    "view_broadcast": {"list", "look", "audience", "reached"},
    "add_broadcast": {"list", "add", "add post", "preview", "test", "known", "audience"},
    "change_broadcast": {"list", "look", "edit", "preview", "test", "known", "audience", "reached"},
    "send_broadcast": {"list", "look", "confirm", "send", "audience", "reached"},
    "schedule_broadcast": {"list", "look", "when", "schedule", "unschedule", "cancel", "audience", "reached"},
    "delete_broadcast": {"delete"},
}


@pytest.mark.parametrize("permission", ONE_PERMISSION_ALLOWS)
def test_each_permission_allows_its_own_pages(permission: str) -> None:
    client = browser(permission)
    for name in attempts(draft()):
        made = draft()
        answer = attempts(made)[name](client)
        allowed = name in ONE_PERMISSION_ALLOWS[permission]
        assert (answer.status_code not in (403, 404)) == allowed, f"{name}: {answer.status_code}"
        assert answer.status_code < 500
        if not allowed:
            made.refresh_from_db()
            assert (made.state, made.revision) == (State.DRAFT, 1), name


def test_author_sees_only_own_broadcasts() -> None:
    client = browser("add_broadcast")
    answer = client.post(f"{LIST}add/", TEXT, follow=True)
    assert answer.status_code == 200
    assert "data: No trains." in answer.text
    theirs = draft(title="Theirs", payload="secret")
    assert client.get(f"{LIST}{theirs.pk}/change/").status_code == 404
    assert "Theirs" not in client.get(LIST).text
    own = Broadcast.objects.get(created_by__username="editor")
    assert client.get(f"{LIST}{own.pk}/history/").status_code == 200
    edit = {**TEXT, "payload": "Some trains.", "revision": "1"}
    assert "data: Some trains." in client.post(f"{LIST}{own.pk}/change/", edit, follow=True).text
    assert client.post(f"{LIST}{theirs.pk}/change/", edit).status_code == 404


def test_non_staff_gets_the_login() -> None:
    client = Client()
    user = User.objects.create(username="reader")
    user.user_permissions.set(Permission.objects.filter(codename__in=ALL))
    for login in (False, True):
        if login:
            client.force_login(user)
        for name, attempt in attempts(draft()).items():
            answer = attempt(client)
            assert answer.status_code == 302, name
            assert "/login/" in answer.url, name
    assert not Message.objects.exists()


@pytest.mark.parametrize("missing", ["add_broadcast", "send_broadcast", "schedule_broadcast", "delete_broadcast"])
def test_buttons_depend_on_permissions(missing: str) -> None:
    buttons = {
        "add_broadcast": "Copy as new draft",
        "send_broadcast": "Send now…",
        "schedule_broadcast": "Schedule…",
        "delete_broadcast": "Delete",
    }
    sent = draft(state=State.CANCELLED)
    permitted, limited = browser(*ALL, name="all"), browser(*(set(ALL) - {missing}), name="fewer")
    url = f"{LIST}{(sent if missing in ('add_broadcast', 'delete_broadcast') else draft()).pk}/change/"
    assert buttons[missing] in permitted.get(url).text
    assert buttons[missing] not in limited.get(url).text


def test_every_change_needs_the_csrf_token() -> None:
    browser(*ALL)
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.get())
    made = draft()
    for name in ("add post", "edit", "send", "schedule", "unschedule", "cancel", "copy", "preview", "test", "delete"):
        assert attempts(made)[name](client).status_code == 403, name
    made.refresh_from_db()
    assert (made.state, Broadcast.objects.count(), Message.objects.count()) == (State.DRAFT, 1, 0)


def test_what_changes_something_is_no_get() -> None:
    client = browser(*ALL)
    made = draft()
    for name in ("unschedule", "cancel", "copy"):
        assert client.get(f"{LIST}{made.pk}/{name}/").status_code == 405
    for name in ("preview", "test"):
        assert client.get(f"{LIST}{name}/").status_code == 405


class OwnChannels(DefaultPolicy):
    """Users can broadcast only to channels whose names start with their username."""

    def can_broadcast(self, request: HttpRequest, channel: str) -> bool:
        return super().can_broadcast(request, channel) and channel.startswith(request.user.get_username())


@override_settings(STREAMS={"POLICY": "tests.admin.broadcasts.test_permissions.OwnChannels"})
def test_policy_limits_channels_for_each_user() -> None:
    client = browser(*ALL, name="ada")
    answer = client.post(f"{LIST}add/", {**TEXT, "channels": "ada.news news"})
    assert answer.status_code == 422
    assert "You do not have permission to broadcast to news." in answer.text
    assert not Broadcast.objects.exists()
    assert client.post(f"{LIST}add/", {**TEXT, "channels": "ada.news"}).status_code == 302
    lifecycle.send(draft(channels=["news", "ada.old"]).pk, by=None)
    assert client.get(f"{LIST}known/").json() == {"channels": ["ada.old"]}
    assert list(client.get(f"{LIST}audience/?channel=news&channel=ada.news").json()["channels"]) == ["ada.news"]
    Message.objects.all().delete()
    theirs = draft(channels=["ada.news", "news"])  # written by another user, who can broadcast to both channels
    for name in ("send", "schedule"):
        answer = attempts(theirs)[name](client)
        assert answer.status_code == 422
        assert "You do not have permission to broadcast to news." in answer.text
    for name in ("edit", "delete"):
        assert attempts(theirs)[name](client).status_code == 403
    # A copy would belong to this user, who could neither edit nor delete it.
    assert attempts(theirs)["copy"](client).status_code == 403
    page = client.get(f"{LIST}{theirs.pk}/change/").text
    assert not [
        button for button in ("<textarea", "Send now…", "Schedule…", "Copy as new draft", "Delete") if button in page
    ]
    lifecycle.schedule(theirs.pk, tomorrow(), by=None)
    for name in ("unschedule", "cancel"):
        assert attempts(theirs)[name](client).status_code == 403
    theirs.refresh_from_db()
    assert (theirs.state, theirs.payload, Message.objects.count()) == (State.SCHEDULED, "No trains.", 0)


class OwnPublishing(DefaultPolicy):
    """Allow publishing to one channel. The policy has no rule for broadcasts."""

    def can_publish(self, request: HttpRequest, channel: str) -> bool:
        return channel == "sport"


@override_settings(STREAMS={"POLICY": "tests.admin.broadcasts.test_permissions.OwnPublishing"})
def test_publish_policy_limits_broadcasts() -> None:
    client = browser(*ALL)
    assert client.post(f"{LIST}add/", TEXT).status_code == 422
    assert client.post(f"{LIST}add/", {**TEXT, "channels": "sport"}).status_code == 302


@override_settings(STREAMS={"POLICY": "tests.admin.broadcasts.test_permissions.OwnChannels"})
@pytest.mark.parametrize("name", ["send", "schedule"])
def test_future_revision_is_refused(name: str) -> None:
    """Another user's next save could add channels for which the policy has not been checked."""
    client = browser(*ALL, name="ada")
    made = draft(channels=["ada.news"])
    answer = client.post(f"{LIST}{made.pk}/{name}/", {"revision": "2", "send_at": local(tomorrow())})
    assert answer.status_code == 422
    assert "Another user has changed this broadcast." in answer.text
