"""The list of broadcasts, the form, and the page of one broadcast."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from streams import publish
from streams.broadcasts import lifecycle
from streams.exceptions import BroadcastRefused
from streams.models import Broadcast, LogHead, Message
from tests.admin.broadcasts.support import ALL, LIST, TEXT, State, browser, draft, local, tomorrow

pytestmark = pytest.mark.django_db


def test_draft_is_stored_and_logged() -> None:
    client = browser(*ALL)
    payload = '  {"a": 1,\r\n "b": "\u202e"}  '
    answer = client.post(
        f"{LIST}add/",
        {**TEXT, "channels": "news, weather\n news", "event": "alert", "payload_type": "json", "payload": payload},
    )
    made = Broadcast.objects.get()
    assert answer.url == f"{LIST}{made.pk}/change/"
    assert (made.channels, made.event) == (["news", "weather"], "alert")
    assert made.payload == payload.replace("\r\n", "\n")
    assert made.created_by.username == "editor"
    assert LogEntry.objects.get().get_change_message() == "Added."
    client.post(f"{LIST}{made.pk}/change/", {**TEXT, "revision": "1"})
    made.refresh_from_db()
    assert (made.revision, made.payload) == (2, "No trains.")
    assert "Changed Channels, Event type, Format and Content." in [
        e.get_change_message() for e in LogEntry.objects.all()
    ]
    client.post(f"{LIST}{made.pk}/change/", {**TEXT, "title": "Other", "revision": "2"})
    assert LogEntry.objects.first().get_change_message() == "Changed Title."


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("title", "", "Enter a title"),
        ("channels", "", "Enter at least one channel"),
        ("channels", "news room!", "“room!” is not a valid channel name"),
        ("channels", " ".join(f"c{n}" for n in range(51)), "at most 50 channels; got 51"),
        ("event", "", "Enter an event type"),
        ("event", "stream-reset", "does not start with “stream-”"),
        ("event", "x" * 100, "99"),
        ("payload", "", "Enter the content of the message"),
        ("payload", "x" * 300_000, "at most 262144 bytes; this one has 300000"),
        ("payload", "a\0b", "Null characters are not allowed"),
        ("payload_type", "xml", "xml is not one of the available choices"),
    ],
    ids=["title", "channels", "name", "many", "type", "reserved", "long-type", "payload", "size", "nul", "kind"],
)
def test_invalid_field_shows_error_and_keeps_text(field: str, value: str, expected: str) -> None:
    answer = browser(*ALL).post(f"{LIST}add/", {**TEXT, field: value})
    assert answer.status_code == 422
    assert expected in answer.text
    assert "Not saved." in answer.text
    assert answer.context["form"]["payload"].value() == (value if field == "payload" else TEXT["payload"])
    assert not Broadcast.objects.exists()


def test_concurrent_edit_loses_no_text() -> None:
    made = draft()
    one, two = browser(*ALL, name="one"), browser(*ALL, name="two")
    assert one.post(f"{LIST}{made.pk}/change/", {**TEXT, "payload": "one", "revision": "1"}).status_code == 302
    answer = two.post(f"{LIST}{made.pk}/change/", {**TEXT, "payload": "two", "revision": "1"})
    assert answer.status_code == 422
    assert "Another user has changed this broadcast." in answer.text
    assert answer.context["form"]["payload"].value() == "two"
    assert "Save draft" not in answer.text  # saving would be refused again
    made.refresh_from_db()
    assert made.payload == "one"
    two.post(f"{LIST}{made.pk}/change/", {**TEXT, "payload": "two", "revision": "1", "_copy": "1"})
    assert list(Broadcast.objects.order_by("pk").values_list("payload", "revision")) == [("one", 2), ("two", 1)]


def test_editing_sent_broadcast_keeps_the_text() -> None:
    made = draft()
    client = browser(*ALL)
    lifecycle.send(made.pk, by=None)
    answer = client.post(f"{LIST}{made.pk}/change/", {**TEXT, "payload": "too late", "revision": "1"})
    assert answer.status_code == 422
    assert "not a draft any more" in answer.text
    assert "too late" in answer.text
    assert "Save my version as a new draft" in answer.text
    client.post(f"{LIST}{made.pk}/change/", {**TEXT, "payload": "too late", "revision": "1", "_copy": "1"})
    assert Broadcast.objects.filter(payload="too late", state=State.DRAFT).count() == 1
    made.refresh_from_db()
    assert made.payload == "No trains."


@pytest.mark.parametrize("revision", ["", "x", "-1", "9" * 400, "\0"], ids=["none", "word", "low", "huge", "nul"])
def test_garbage_for_a_revision_changes_nothing(revision: str) -> None:
    made = draft()
    client = browser(*ALL)
    for url in ("change", "send", "schedule"):
        data = {**TEXT, "payload": "x", "revision": revision, "send_at": local(tomorrow())}
        assert client.post(f"{LIST}{made.pk}/{url}/", data).status_code == 422
    made.refresh_from_db()
    assert (made.payload, made.state, made.revision) == ("No trains.", State.DRAFT, 1)


@pytest.mark.parametrize("pk", ["999999", "9" * 40, "0", "abc", "a%00b"], ids=["none", "huge", "zero", "word", "nul"])
def test_unknown_broadcast_is_not_found(pk: str) -> None:
    client = browser(*ALL)
    for name in ("change", "send", "schedule", "reached"):
        assert client.get(f"{LIST}{pk}/{name}/").status_code in (302, 404), name
    for name in ("unschedule", "cancel", "copy"):
        assert client.post(f"{LIST}{pk}/{name}/").status_code in (302, 404), name


def test_result_shows_ids_and_audience() -> None:
    made = draft(channels=["news", "weather"])
    lifecycle.send(made.pk, by=None)
    Broadcast.objects.update(audience={"news": 41, "weather": 1})
    answer = browser(*ALL, "view_message").get(f"{LIST}{made.pk}/change/")
    assert "Connections when sent" in answer.text
    assert "<textarea" not in answer.text
    pk = Message.objects.get(position=1).pk
    assert f'<a href="/admin/streams/message/{pk}/change/">1</a>' in answer.text
    assert '<td class="number">41</td>' in answer.text
    assert "Copy as new draft" in answer.text
    assert "Delete" not in answer.text


def test_sent_or_scheduled_cannot_be_deleted() -> None:
    client = browser(*ALL)
    for state in (State.SENT, State.SCHEDULED):
        made = draft(state=state)
        assert client.post(f"{LIST}{made.pk}/delete/", {"post": "yes"}).status_code == 403
        data = {"action": "delete_selected", "_selected_action": [made.pk], "post": "yes"}
        client.post(LIST, data)  # the list has no such action
        assert Broadcast.objects.filter(pk=made.pk).exists()
    made = draft()
    assert client.post(f"{LIST}{made.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not Broadcast.objects.filter(pk=made.pk).exists()


def test_concurrently_sent_broadcast_is_not_deleted() -> None:
    made = draft()
    lifecycle.send(made.pk, by=None)
    with pytest.raises(BroadcastRefused):
        lifecycle.delete_broadcasts(Broadcast.objects.filter(pk=made.pk))
    assert Broadcast.objects.filter(pk=made.pk).exists()


def test_thousand_separators_do_not_affect_ids(settings: Any) -> None:
    settings.USE_THOUSAND_SEPARATOR = True
    publish("news", "x")
    Message.objects.update(position=1_234_567)
    LogHead.objects.update(head=1_234_567)
    client = browser(*ALL, "view_message")
    made = draft(revision=1234)
    page = client.get(f"{LIST}{made.pk}/send/").text
    [seen] = re.findall('name="revision" value="(.*?)"', page)
    sent = client.post(f"{LIST}{made.pk}/send/", {"revision": seen}, follow=True)
    assert "Sent. 0 connections were open." in sent.text
    assert ">1234568<" in sent.text
    assert "1,234,56" not in sent.text


def test_list_is_sorted_by_send_time() -> None:
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
        listed = client.get(f"{LIST}?o={column}").context["cl"].result_list
        assert [broadcast.title for broadcast in listed] == titles


def test_send_error_is_translated(settings: Any) -> None:
    settings.STREAMS = {"MAX_MESSAGE_BYTES": 5}
    made = draft()
    client = browser(*ALL)
    assert "A message can have at most 5 bytes; this one has 10." in client.get(f"{LIST}{made.pk}/send/").text
    settings.LANGUAGE_CODE = "zh-hans"
    page = client.get(f"{LIST}{made.pk}/send/")
    assert page.status_code == 422
    assert not re.search("A message can have|MAX_MESSAGE_BYTES", page.text)


HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e{{ 7 }}"


def test_nothing_that_was_written_becomes_markup() -> None:
    client = browser(*ALL)
    for state in State:
        made = draft(
            title=HOSTILE[:200], payload=HOSTILE, event="<b>", problem=HOSTILE, state=state, send_at=tomorrow()
        )
        for name in ("change", "send", "schedule"):
            page = client.get(f"{LIST}{made.pk}/{name}/", follow=True).text
            assert "<script>alert" not in page
            assert "<img src=x" not in page
            assert "<b>" not in page
    page = client.get(LIST).text
    assert "<script>alert" not in page
    assert json.dumps(HOSTILE) not in page
