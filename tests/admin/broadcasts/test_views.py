"""The broadcast desk's answers: who may do what, what is refused and how it is said, and what the scripts get."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.http import HttpRequest
from django.test import Client, override_settings
from django.utils import timezone

from streams import broadcasts, publish
from streams.exceptions import BroadcastRefused
from streams.models import Broadcast, LogHead, Message
from streams.policies import DefaultPolicy
from tests.admin.people import node, staff

pytestmark = pytest.mark.django_db

State = Broadcast.State
DESK = "/admin/streams/broadcast/"
ALL = (
    "view_broadcast",
    "add_broadcast",
    "change_broadcast",
    "delete_broadcast",
    "send_broadcast",
    "schedule_broadcast",
)
TEXT = {"title": "Night works", "channels": "news", "event": "message", "payload_type": "text", "payload": "No trains."}


def browser(*permissions: str, name: str = "editor") -> Client:
    return staff(*permissions, name=name)


def draft(**fields: Any) -> Broadcast:
    return Broadcast.objects.create(**{"title": "Night works", "channels": ["news"], "payload": "No trains.", **fields})


def local(moment: datetime.datetime) -> str:
    return timezone.localtime(moment).strftime("%Y-%m-%dT%H:%M")


def tomorrow() -> datetime.datetime:
    return timezone.now() + datetime.timedelta(days=1)


# --- Who may ----------------------------------------------------------------------------------------------------------


def attempts(made: Broadcast) -> dict[str, Any]:
    """What somebody may try, and the permissions of which one is enough, or which are all needed."""
    post = {"revision": str(made.revision)}
    return {
        "list": lambda c: c.get(DESK),
        "look": lambda c: c.get(f"{DESK}{made.pk}/change/"),
        "add": lambda c: c.get(f"{DESK}add/"),
        "add post": lambda c: c.post(f"{DESK}add/", TEXT),
        "edit": lambda c: c.post(f"{DESK}{made.pk}/change/", {**TEXT, **post}),
        "confirm": lambda c: c.get(f"{DESK}{made.pk}/send/"),
        "send": lambda c: c.post(f"{DESK}{made.pk}/send/", post),
        "when": lambda c: c.get(f"{DESK}{made.pk}/schedule/"),
        "schedule": lambda c: c.post(f"{DESK}{made.pk}/schedule/", {**post, "send_at": local(tomorrow())}),
        "unschedule": lambda c: c.post(f"{DESK}{made.pk}/unschedule/"),
        "cancel": lambda c: c.post(f"{DESK}{made.pk}/cancel/"),
        "again": lambda c: c.post(f"{DESK}{made.pk}/again/"),
        "preview": lambda c: c.post(f"{DESK}preview/", TEXT),
        "test": lambda c: c.post(f"{DESK}test/", TEXT),
        "known": lambda c: c.get(f"{DESK}known/?q=n"),
        "audience": lambda c: c.get(f"{DESK}audience/?channel=news"),
        "served": lambda c: c.get(f"{DESK}{made.pk}/served/"),
        "delete": lambda c: c.post(f"{DESK}{made.pk}/delete/", {"post": "yes"}),
    }


ONE_PERMISSION_ALLOWS = {
    "view_broadcast": {"list", "look", "audience", "served"},
    "add_broadcast": {"list", "add", "add post", "preview", "test", "known", "audience"},
    "change_broadcast": {"list", "look", "edit", "preview", "test", "known", "audience", "served"},
    "send_broadcast": {"list", "look", "confirm", "send", "audience", "served"},
    "schedule_broadcast": {"list", "look", "when", "schedule", "unschedule", "cancel", "audience", "served"},
    "delete_broadcast": {"delete"},
}


@pytest.mark.parametrize("permission", ONE_PERMISSION_ALLOWS)
def test_each_permission_allows_what_it_says_and_nothing_else(permission: str) -> None:
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


def test_who_may_only_write_sees_their_own_and_nobody_elses() -> None:
    client = browser("add_broadcast")
    answer = client.post(f"{DESK}add/", TEXT, follow=True)
    assert answer.status_code == 200
    assert "data: No trains." in answer.text
    theirs = draft(title="Theirs", payload="secret")
    assert client.get(f"{DESK}{theirs.pk}/change/").status_code == 404
    assert "Theirs" not in client.get(DESK).text
    own = Broadcast.objects.get(created_by__username="editor")
    assert client.get(f"{DESK}{own.pk}/history/").status_code == 200
    edit = {**TEXT, "payload": "Some trains.", "revision": "1"}
    assert "data: Some trains." in client.post(f"{DESK}{own.pk}/change/", edit, follow=True).text
    assert client.post(f"{DESK}{theirs.pk}/change/", edit).status_code == 404


def test_who_is_not_staff_gets_to_the_login_only() -> None:
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
def test_buttons_are_there_for_those_who_may(missing: str) -> None:
    buttons = {
        "add_broadcast": "Use again",
        "send_broadcast": "Send now…",
        "schedule_broadcast": "Schedule…",
        "delete_broadcast": "Delete",
    }
    sent = draft(state=State.CANCELLED)
    may, may_not = browser(*ALL, name="all"), browser(*(set(ALL) - {missing}), name="fewer")
    url = f"{DESK}{(sent if missing in ('add_broadcast', 'delete_broadcast') else draft()).pk}/change/"
    assert buttons[missing] in may.get(url).text
    assert buttons[missing] not in may_not.get(url).text


def test_every_change_needs_the_csrf_token() -> None:
    browser(*ALL)
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.get())
    made = draft()
    for name in ("add post", "edit", "send", "schedule", "unschedule", "cancel", "again", "preview", "test", "delete"):
        assert attempts(made)[name](client).status_code == 403, name
    made.refresh_from_db()
    assert (made.state, Broadcast.objects.count(), Message.objects.count()) == (State.DRAFT, 1, 0)


def test_what_changes_something_is_no_get() -> None:
    client = browser(*ALL)
    made = draft()
    for name in ("unschedule", "cancel", "again"):
        assert client.get(f"{DESK}{made.pk}/{name}/").status_code == 405
    for name in ("preview", "test"):
        assert client.get(f"{DESK}{name}/").status_code == 405


class OwnChannels(DefaultPolicy):
    """Each user broadcasts to channels that begin with their name."""

    def can_broadcast(self, request: HttpRequest, channel: str) -> bool:
        return super().can_broadcast(request, channel) and channel.startswith(request.user.get_username())


@override_settings(STREAMS={"POLICY": "tests.admin.test_broadcasts.OwnChannels"})
def test_a_policy_limits_the_channels_of_each_user() -> None:
    client = browser(*ALL, name="ada")
    answer = client.post(f"{DESK}add/", {**TEXT, "channels": "ada.news news"})
    assert answer.status_code == 422
    assert "You may not broadcast to news." in answer.text
    assert not Broadcast.objects.exists()
    assert client.post(f"{DESK}add/", {**TEXT, "channels": "ada.news"}).status_code == 302
    broadcasts.send(draft(channels=["news", "ada.old"]).pk, by=None)
    assert client.get(f"{DESK}known/").json() == {"channels": ["ada.old"]}
    assert list(client.get(f"{DESK}audience/?channel=news&channel=ada.news").json()["channels"]) == ["ada.news"]
    Message.objects.all().delete()
    theirs = draft(channels=["ada.news", "news"])  # written by somebody who may
    for name in ("send", "schedule"):
        answer = attempts(theirs)[name](client)
        assert answer.status_code == 422
        assert "You may not broadcast to news." in answer.text
    for name in ("edit", "delete"):
        assert attempts(theirs)[name](client).status_code == 403
    # A draft of it would be theirs, and they could neither edit nor delete it.
    assert attempts(theirs)["again"](client).status_code == 403
    page = client.get(f"{DESK}{theirs.pk}/change/").text
    assert not [button for button in ("<textarea", "Send now…", "Schedule…", "Use again", "Delete") if button in page]
    broadcasts.schedule(theirs.pk, tomorrow(), by=None)
    for name in ("unschedule", "cancel"):
        assert attempts(theirs)[name](client).status_code == 403
    theirs.refresh_from_db()
    assert (theirs.state, theirs.payload, Message.objects.count()) == (State.SCHEDULED, "No trains.", 0)


class OwnPublishing(DefaultPolicy):
    """Says of publishing only that it is for some channels."""

    def can_publish(self, request: HttpRequest, channel: str) -> bool:
        return channel == "sport"


@override_settings(STREAMS={"POLICY": "tests.admin.test_broadcasts.OwnPublishing"})
def test_a_policy_that_is_stricter_about_publishing_is_so_about_broadcasts() -> None:
    client = browser(*ALL)
    assert client.post(f"{DESK}add/", TEXT).status_code == 422
    assert client.post(f"{DESK}add/", {**TEXT, "channels": "sport"}).status_code == 302


@override_settings(STREAMS={"POLICY": "tests.admin.test_broadcasts.OwnChannels"})
@pytest.mark.parametrize("name", ["send", "schedule"])
def test_a_revision_that_is_yet_to_come_is_refused(name: str) -> None:
    """A colleague's next save might take the broadcast to channels of which the policy was not asked."""
    client = browser(*ALL, name="ada")
    made = draft(channels=["ada.news"])
    answer = client.post(f"{DESK}{made.pk}/{name}/", {"revision": "2", "send_at": local(tomorrow())})
    assert answer.status_code == 422
    assert "Somebody has changed this broadcast meanwhile." in answer.text


# --- Composing --------------------------------------------------------------------------------------------------------


def test_a_draft_is_stored_as_it_was_typed_and_recorded() -> None:
    client = browser(*ALL)
    payload = '  {"a": 1,\r\n "b": "\u202e"}  '
    answer = client.post(
        f"{DESK}add/",
        {**TEXT, "channels": "news, weather\n news", "event": "alert", "payload_type": "json", "payload": payload},
    )
    made = Broadcast.objects.get()
    assert answer.url == f"{DESK}{made.pk}/change/"
    assert (made.channels, made.event) == (["news", "weather"], "alert")
    assert made.payload == payload.replace("\r\n", "\n")
    assert made.created_by.username == "editor"
    assert LogEntry.objects.get().get_change_message() == "Added."
    client.post(f"{DESK}{made.pk}/change/", {**TEXT, "revision": "1"})
    made.refresh_from_db()
    assert (made.revision, made.payload) == (2, "No trains.")
    assert "Changed Channels, Type, Payload is and Payload." in [e.get_change_message() for e in LogEntry.objects.all()]
    client.post(f"{DESK}{made.pk}/change/", {**TEXT, "title": "Other", "revision": "2"})
    assert LogEntry.objects.first().get_change_message() == "Changed Title."


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("title", "", "Give it a title"),
        ("channels", "", "Name at least one channel"),
        ("channels", "news room!", "“room!” cannot be a channel&#x27;s name"),
        ("channels", " ".join(f"c{n}" for n in range(51)), "at most 50 channels; got 51"),
        ("event", "", "Name a type"),
        ("event", "stream-reset", "does not begin with “stream-”"),
        ("event", "x" * 100, "99"),
        ("payload", "", "Write what is to be sent"),
        ("payload", "x" * 300_000, "at most 262144 bytes; this has 300000"),
        ("payload", "a\0b", "Null characters are not allowed"),
        ("payload_type", "xml", "xml is not one of the available choices"),
    ],
    ids=["title", "channels", "name", "many", "type", "reserved", "long-type", "payload", "size", "nul", "kind"],
)
def test_what_is_wrong_is_said_at_its_field_and_nothing_is_lost(field: str, value: str, says: str) -> None:
    answer = browser(*ALL).post(f"{DESK}add/", {**TEXT, field: value})
    assert answer.status_code == 422
    assert says in answer.text
    assert "Nothing was saved." in answer.text
    assert answer.context["form"]["payload"].value() == (value if field == "payload" else TEXT["payload"])
    assert not Broadcast.objects.exists()


@pytest.mark.parametrize(
    ("payload", "line", "column"),
    [
        ('{"a": 1, 2}', 1, 10),
        ('{\n  "a": 1\n  "b": 2\n}', 3, 3),
        ('{"a": NaN}', 1, 7),
        ('{"NaN": "NaN",\n "b": -Infinity}', 2, 7),
        ("", None, None),
        ("[" * 100_000, None, None),
    ],
    ids=["comma", "line", "nan", "infinity", "empty", "deep"],
)
def test_broken_json_is_told_with_line_and_column(payload: str, line: int | None, column: int | None) -> None:
    client = browser(*ALL)
    told = client.post(f"{DESK}preview/", {**TEXT, "payload_type": "json", "payload": payload}).json()
    assert told["preview"] is None
    if line is not None:
        assert told["mistake"] == {"line": line, "column": column}
        assert f"in line {line}, column {column}." in told["problems"]["payload"][0]
    else:
        assert told["problems"]["payload"]
    answer = client.post(f"{DESK}add/", {**TEXT, "payload_type": "json", "payload": payload})
    assert answer.status_code == 422
    assert not Broadcast.objects.exists()


def test_preview_is_the_exact_bytes_and_what_a_client_makes_of_them() -> None:
    client = browser(*ALL)
    client.post(f"{DESK}test/", TEXT)  # so that the next id is 2
    told = client.post(f"{DESK}preview/", {**TEXT, "title": "", "event": "alert", "payload": " a\r\n\nb: é\n"}).json()
    assert told["problems"] == {}
    wire = "event: alert\nid: 2\ndata:  a\ndata: \ndata: b: é\ndata: \n\n"
    assert told["preview"] == {"problem": "", "wire": wire, "data": " a\n\nb: é\n", "bytes": len(wire.encode())}
    made = draft(event="alert", payload=" a\n\nb: é\n")
    broadcasts.send(made.pk, by=None)
    [row] = Message.objects.filter(channel="news")
    assert (row.position, row.data) == (2, " a\n\nb: é\n")


def test_somebody_elses_change_is_not_overwritten_and_ones_own_text_is_not_lost() -> None:
    made = draft()
    one, two = browser(*ALL, name="one"), browser(*ALL, name="two")
    assert one.post(f"{DESK}{made.pk}/change/", {**TEXT, "payload": "one", "revision": "1"}).status_code == 302
    answer = two.post(f"{DESK}{made.pk}/change/", {**TEXT, "payload": "two", "revision": "1"})
    assert answer.status_code == 422
    assert "Somebody has changed this broadcast meanwhile." in answer.text
    assert answer.context["form"]["payload"].value() == "two"
    assert "Save draft" not in answer.text  # it would be refused again
    made.refresh_from_db()
    assert made.payload == "one"
    two.post(f"{DESK}{made.pk}/change/", {**TEXT, "payload": "two", "revision": "1", "_copy": "1"})
    assert list(Broadcast.objects.order_by("pk").values_list("payload", "revision")) == [("one", 2), ("two", 1)]


def test_edit_of_what_was_sent_meanwhile_is_refused_and_ones_own_text_is_not_lost() -> None:
    made = draft()
    client = browser(*ALL)
    broadcasts.send(made.pk, by=None)
    answer = client.post(f"{DESK}{made.pk}/change/", {**TEXT, "payload": "too late", "revision": "1"})
    assert answer.status_code == 422
    assert "no draft any more" in answer.text
    assert "too late" in answer.text
    assert "Save mine as a new draft" in answer.text
    client.post(f"{DESK}{made.pk}/change/", {**TEXT, "payload": "too late", "revision": "1", "_copy": "1"})
    assert Broadcast.objects.filter(payload="too late", state=State.DRAFT).count() == 1
    made.refresh_from_db()
    assert made.payload == "No trains."


@pytest.mark.parametrize("revision", ["", "x", "-1", "9" * 400, "\0"], ids=["none", "word", "low", "huge", "nul"])
def test_garbage_for_a_revision_changes_nothing(revision: str) -> None:
    made = draft()
    client = browser(*ALL)
    for url in ("change", "send", "schedule"):
        data = {**TEXT, "payload": "x", "revision": revision, "send_at": local(tomorrow())}
        assert client.post(f"{DESK}{made.pk}/{url}/", data).status_code == 422
    made.refresh_from_db()
    assert (made.payload, made.state, made.revision) == ("No trains.", State.DRAFT, 1)


@pytest.mark.parametrize("pk", ["999999", "9" * 40, "0", "abc", "a%00b"], ids=["none", "huge", "zero", "word", "nul"])
def test_no_such_broadcast_is_no_error_of_the_server(pk: str) -> None:
    client = browser(*ALL)
    for name in ("change", "send", "schedule", "served"):
        assert client.get(f"{DESK}{pk}/{name}/").status_code in (302, 404), name
    for name in ("unschedule", "cancel", "again"):
        assert client.post(f"{DESK}{pk}/{name}/").status_code in (302, 404), name


# --- Sending ----------------------------------------------------------------------------------------------------------


def test_sending_asks_first_and_sends_what_was_confirmed() -> None:
    made = draft(channels=["news", "weather"])
    client = browser(*ALL)
    asked = client.get(f"{DESK}{made.pk}/send/")
    assert "Send, although nobody listens now" in asked.text
    assert not Message.objects.exists()
    sent = client.post(f"{DESK}{made.pk}/send/", {"revision": "1"}, follow=True)
    assert "Sent. 0 connections were open." in sent.text
    assert [row.channel for row in Message.objects.all()] == ["news", "weather"]
    assert Message.objects.first().published_by.username == "editor"
    again = client.post(f"{DESK}{made.pk}/send/", {"revision": "1"}, follow=True)
    assert "This broadcast was sent already" in again.text
    assert Message.objects.count() == 2


def test_what_has_changed_since_it_was_confirmed_is_shown_again() -> None:
    made = draft()
    client = browser(*ALL)
    client.post(f"{DESK}{made.pk}/change/", {**TEXT, "payload": "changed", "revision": "1"})
    answer = client.post(f"{DESK}{made.pk}/send/", {"revision": "1"})
    assert answer.status_code == 422
    assert "Somebody has changed this broadcast meanwhile." in answer.text
    assert "data: changed" in answer.text
    assert not Message.objects.exists()


def test_draft_that_cannot_be_sent_any_more_says_why_before_it_is_sent() -> None:
    made = draft(payload="x" * 100)
    client = browser(*ALL)
    with override_settings(STREAMS={"MAX_MESSAGE_BYTES": 50}):
        asked = client.get(f"{DESK}{made.pk}/send/")
        assert "at most 50 bytes" in asked.text
        assert 'id="send-to"' not in asked.text
        assert client.post(f"{DESK}{made.pk}/send/", {"revision": "1"}).status_code == 422
    assert not Message.objects.exists()


def test_result_says_ids_and_who_listened_and_nothing_can_be_edited() -> None:
    made = draft(channels=["news", "weather"])
    broadcasts.send(made.pk, by=None)
    Broadcast.objects.update(audience={"news": 41, "weather": 1})
    answer = browser(*ALL, "view_message").get(f"{DESK}{made.pk}/change/")
    assert "Who was connected" in answer.text
    assert "<textarea" not in answer.text
    pk = Message.objects.get(position=1).pk
    assert f'<a href="/admin/streams/message/{pk}/change/">1</a>' in answer.text
    assert '<td class="number">41</td>' in answer.text
    assert "Use again" in answer.text
    assert "Delete" not in answer.text


def test_what_was_sent_or_is_scheduled_cannot_be_deleted() -> None:
    client = browser(*ALL)
    for state in (State.SENT, State.SCHEDULED):
        made = draft(state=state)
        assert client.post(f"{DESK}{made.pk}/delete/", {"post": "yes"}).status_code == 403
        data = {"action": "delete_selected", "_selected_action": [made.pk], "post": "yes"}
        client.post(DESK, data)  # there is no such action
        assert Broadcast.objects.filter(pk=made.pk).exists()
    made = draft()
    assert client.post(f"{DESK}{made.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not Broadcast.objects.filter(pk=made.pk).exists()


def test_what_was_sent_since_one_was_asked_is_not_deleted() -> None:
    made = draft()
    broadcasts.send(made.pk, by=None)
    with pytest.raises(BroadcastRefused):
        broadcasts.discard(Broadcast.objects.filter(pk=made.pk))
    assert Broadcast.objects.filter(pk=made.pk).exists()


# --- Scheduling -------------------------------------------------------------------------------------------------------


@override_settings(TIME_ZONE="Europe/Vienna")
@pytest.mark.parametrize(
    ("day", "utc"), [("07-15T09:00", "07-15T07:00"), ("12-15T09:00", "12-15T08:00")], ids=["summer", "winter"]
)
def test_times_are_the_current_time_zones_and_it_is_named(day: str, utc: str) -> None:
    year = timezone.now().year + 1
    made = draft()
    client = browser(*ALL)
    assert "In the time zone Europe/Vienna" in client.get(f"{DESK}{made.pk}/schedule/").text
    client.post(f"{DESK}{made.pk}/schedule/", {"send_at": f"{year}-{day}", "revision": "1"})
    made.refresh_from_db()
    assert made.send_at == datetime.datetime.fromisoformat(f"{year}-{utc}+00:00")
    page = client.get(f"{DESK}{made.pk}/change/").text
    assert f"{year}-{day.replace('T', ' ')} CE" in page
    assert f"in UTC it is {year}-{utc.replace('T', ' ')}" in page
    assert f"{year}-{day.replace('T', ' ')} CE" in client.get(DESK).text


def clock_change(month: int) -> str:
    """The day in that month of next year on which Vienna's clocks change: its last Sunday."""
    day = datetime.date(timezone.now().year + 1, month, 31)
    return str(day - datetime.timedelta(days=(day.weekday() + 1) % 7))


@override_settings(TIME_ZONE="Europe/Vienna")
@pytest.mark.parametrize("month", [3, 10], ids=["skipped", "twice"])
def test_a_time_that_a_clock_change_skips_or_repeats_is_refused(month: int) -> None:
    made = draft()
    send_at = f"{clock_change(month)}T02:30"
    assert datetime.datetime.fromisoformat(send_at).replace(tzinfo=ZoneInfo("Europe/Vienna"))
    answer = browser(*ALL).post(f"{DESK}{made.pk}/schedule/", {"send_at": send_at, "revision": "1"})
    assert answer.status_code == 422
    assert "it may be ambiguous or it may not exist" in answer.text
    made.refresh_from_db()
    assert made.state == State.DRAFT


@pytest.mark.parametrize(
    ("send_at", "says"),
    [
        ("9999-12-31T23:59", "before the year 3000"),
        ("", "Choose when"),
        ("2001-01-01T00:00", "in the past"),
        ("soon", "Enter a valid date/time"),
        ("0" * 999, "valid"),
    ],
    ids=["far", "none", "past", "word", "long"],
)
def test_a_time_that_is_none_is_refused(send_at: str, says: str) -> None:
    made = draft()
    answer = browser(*ALL).post(f"{DESK}{made.pk}/schedule/", {"send_at": send_at, "revision": "1"})
    assert (answer.status_code, says in answer.text) == (422, True)
    made.refresh_from_db()
    assert made.state == State.DRAFT


def test_scheduled_can_be_taken_back_cancelled_and_used_again() -> None:
    client = browser(*ALL)
    made = draft()
    attempts(made)["schedule"](client)
    page = client.get(f"{DESK}{made.pk}/change/").text
    assert "Goes out at" in page
    assert "<textarea" not in page
    assert "a draft again" in client.post(f"{DESK}{made.pk}/unschedule/", follow=True).text
    made.refresh_from_db()
    attempts(made)["schedule"](client)
    assert "It was cancelled, and never sent." in client.post(f"{DESK}{made.pk}/cancel/", follow=True).text
    assert "Nothing has been sent." in client.post(f"{DESK}{made.pk}/again/", follow=True).text
    assert list(Broadcast.objects.order_by("pk").values_list("state", flat=True)) == ["cancelled", "draft"]


# --- What the scripts ask for -----------------------------------------------------------------------------------------


def test_test_goes_to_ones_own_channel_only() -> None:
    client = browser("add_broadcast")
    user = User.objects.get()
    answer = client.post(f"{DESK}test/", {**TEXT, "channels": "news", "event": "alert"})
    assert (answer.status_code, answer.json()) == (201, {"channel": f"user.{user.pk}", "position": 1})
    [message] = Message.objects.all()
    assert (message.channel, message.event, message.published_by) == (f"user.{user.pk}", "alert", user)
    refused = client.post(f"{DESK}test/", {**TEXT, "payload": ""})
    assert (refused.status_code, refused.json()) == (422, {"errors": ["Write what is to be sent."]})


def test_known_channels_begin_with_what_was_typed() -> None:
    client = browser("add_broadcast")
    for channel in ("news", "news.sports", "weather"):
        broadcasts.send(draft(channels=[channel]).pk, by=None)
    assert client.get(f"{DESK}known/", {"q": "new"}).json() == {"channels": ["news", "news.sports"]}
    assert client.get(f"{DESK}known/", {"q": "zzz"}).json() == {"channels": []}
    for garbage in ("\0", "%", "x" * 10_000, "'; --", "\u202e"):
        assert client.get(f"{DESK}known/", {"q": garbage}).status_code == 200


def test_audience_of_garbage_is_nobody() -> None:
    client = browser("send_broadcast")
    assert client.get(f"{DESK}audience/?channel=news&channel=%00&channel=%E2%80%AE").json()["total"] == 0
    assert client.get(f"{DESK}audience/").json()["channels"] == {}
    many = "&".join(f"channel=c{n}" for n in range(900))
    assert len(client.get(f"{DESK}audience/?{many}").json()["channels"]) == broadcasts.MAX_CHANNELS


def test_nobody_is_said_to_listen_only_where_that_is_known() -> None:
    client = browser(*ALL)
    made = draft(channels=["quiet"])
    asked = f"{DESK}{made.pk}/send/"
    assert ">Send, although nobody listens now</button>" in client.get(asked).text
    node({"news": 3}, channels_left_out=400)
    page = client.get(asked).text
    assert ">Send now</button>" in page
    assert "there may be more connections than are counted here" in page
    told = client.get(f"{DESK}audience/?channel=quiet").json()
    assert (told["channels"], told["total"], told["is_whole"]) == ({"quiet": 0}, 0, False)


def test_numbers_with_separators_change_no_id_and_no_revision(settings: Any) -> None:
    settings.USE_THOUSAND_SEPARATOR = True
    publish("news", "x")
    Message.objects.update(position=1_234_567)
    LogHead.objects.update(head=1_234_567)
    client = browser(*ALL, "view_message")
    made = draft(revision=1234)
    page = client.get(f"{DESK}{made.pk}/send/").text
    [seen] = re.findall('name="revision" value="(.*?)"', page)
    sent = client.post(f"{DESK}{made.pk}/send/", {"revision": seen}, follow=True)
    assert "Sent. 0 connections were open." in sent.text
    assert ">1234568<" in sent.text
    assert "1,234,56" not in sent.text


def test_list_is_sorted_by_when_it_was_sent_or_will_be() -> None:
    now = timezone.now()

    def sent(days: int) -> None:
        draft(title=f"{days} days ago", state=State.SENT, sent_at=now - datetime.timedelta(days=days))

    sent(9)
    sent(0)
    draft(title="tomorrow", state=State.SCHEDULED, send_at=tomorrow())
    sent(30)
    client = browser("view_broadcast")
    in_order = ["30 days ago", "9 days ago", "0 days ago", "tomorrow"]
    for column, titles in (("4", in_order), ("-4", in_order[::-1])):
        listed = client.get(f"{DESK}?o={column}").context["cl"].result_list
        assert [broadcast.title for broadcast in listed] == titles


def test_reader_reads_in_their_own_language_why_a_draft_cannot_be_sent(settings: Any) -> None:
    settings.STREAMS = {"MAX_MESSAGE_BYTES": 5}
    made = draft()
    client = browser(*ALL)
    assert "A message has at most 5 bytes; this has 10." in client.get(f"{DESK}{made.pk}/send/").text
    settings.LANGUAGE_CODE = "zh-hans"
    page = client.get(f"{DESK}{made.pk}/send/")
    assert page.status_code == 422
    assert not {"A message has", "MAX_MESSAGE_BYTES"} & set(re.findall("A message has|MAX_MESSAGE_BYTES", page.text))


HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e{{ 7 }}"


def test_nothing_that_was_written_becomes_markup() -> None:
    client = browser(*ALL)
    for state in State:
        made = draft(
            title=HOSTILE[:200], payload=HOSTILE, event="<b>", problem=HOSTILE, state=state, send_at=tomorrow()
        )
        for name in ("change", "send", "schedule"):
            page = client.get(f"{DESK}{made.pk}/{name}/", follow=True).text
            assert "<script>alert" not in page
            assert "<img src=x" not in page
            assert "<b>" not in page
    page = client.get(DESK).text
    assert "<script>alert" not in page
    assert json.dumps(HOSTILE) not in page
