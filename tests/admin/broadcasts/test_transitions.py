"""Sending and scheduling a broadcast."""

from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

import pytest
from django.test import override_settings
from django.utils import timezone

from streams.models import Broadcast, Message
from tests.admin.broadcasts.support import ALL, LIST, TEXT, State, attempts, browser, draft

pytestmark = pytest.mark.django_db


def test_sending_asks_for_confirmation() -> None:
    made = draft(channels=["news", "weather"])
    client = browser(*ALL)
    confirmation = client.get(f"{LIST}{made.pk}/send/")
    assert "Send, although no client is connected" in confirmation.text
    assert not Message.objects.exists()
    sent = client.post(f"{LIST}{made.pk}/send/", {"revision": "1"}, follow=True)
    assert "Sent. 0 connections were open." in sent.text
    assert [row.channel for row in Message.objects.all()] == ["news", "weather"]
    assert Message.objects.first().published_by.username == "editor"
    again = client.post(f"{LIST}{made.pk}/send/", {"revision": "1"}, follow=True)
    assert "This broadcast was already sent" in again.text
    assert Message.objects.count() == 2


def test_changed_broadcast_is_confirmed_again() -> None:
    made = draft()
    client = browser(*ALL)
    client.post(f"{LIST}{made.pk}/change/", {**TEXT, "payload": "changed", "revision": "1"})
    answer = client.post(f"{LIST}{made.pk}/send/", {"revision": "1"})
    assert answer.status_code == 422
    assert "Another user has changed this broadcast." in answer.text
    assert "data: changed" in answer.text
    assert not Message.objects.exists()


def test_unsendable_draft_shows_the_reason() -> None:
    made = draft(payload="x" * 100)
    client = browser(*ALL)
    with override_settings(STREAMS={"MAX_MESSAGE_BYTES": 50}):
        confirmation = client.get(f"{LIST}{made.pk}/send/")
        assert "at most 50 bytes" in confirmation.text
        assert 'id="send-to"' not in confirmation.text
        assert client.post(f"{LIST}{made.pk}/send/", {"revision": "1"}).status_code == 422
    assert not Message.objects.exists()


@override_settings(TIME_ZONE="Europe/Vienna")
@pytest.mark.parametrize(
    ("day", "utc"), [("07-15T09:00", "07-15T07:00"), ("12-15T09:00", "12-15T08:00")], ids=["summer", "winter"]
)
def test_times_use_current_time_zone(day: str, utc: str) -> None:
    year = timezone.now().year + 1
    made = draft()
    client = browser(*ALL)
    assert "Time zone: Europe/Vienna" in client.get(f"{LIST}{made.pk}/schedule/").text
    client.post(f"{LIST}{made.pk}/schedule/", {"send_at": f"{year}-{day}", "revision": "1"})
    made.refresh_from_db()
    assert made.send_at == datetime.datetime.fromisoformat(f"{year}-{utc}+00:00")
    page = client.get(f"{LIST}{made.pk}/change/").text
    assert f"{year}-{day.replace('T', ' ')} CE" in page
    assert f"In UTC, it is {year}-{utc.replace('T', ' ')}" in page
    assert f"{year}-{day.replace('T', ' ')} CE" in client.get(LIST).text


def clock_change(month: int) -> str:
    """Return the day on which Vienna's clocks change in this month of next year: the last Sunday of the month."""
    day = datetime.date(timezone.now().year + 1, month, 31)
    return str(day - datetime.timedelta(days=(day.weekday() + 1) % 7))


@override_settings(TIME_ZONE="Europe/Vienna")
@pytest.mark.parametrize("month", [3, 10], ids=["skipped", "twice"])
def test_ambiguous_or_skipped_time_is_refused(month: int) -> None:
    made = draft()
    send_at = f"{clock_change(month)}T02:30"
    assert datetime.datetime.fromisoformat(send_at).replace(tzinfo=ZoneInfo("Europe/Vienna"))
    answer = browser(*ALL).post(f"{LIST}{made.pk}/schedule/", {"send_at": send_at, "revision": "1"})
    assert answer.status_code == 422
    assert "it may be ambiguous or it may not exist" in answer.text
    made.refresh_from_db()
    assert made.state == State.DRAFT


@pytest.mark.parametrize(
    ("send_at", "expected"),
    [
        ("9999-12-31T23:59", "before the year 3000"),
        ("", "Choose a date"),
        ("2001-01-01T00:00", "in the past"),
        ("soon", "Enter a valid date/time"),
        ("0" * 999, "valid"),
    ],
    ids=["far", "none", "past", "word", "long"],
)
def test_invalid_time_is_refused(send_at: str, expected: str) -> None:
    made = draft()
    answer = browser(*ALL).post(f"{LIST}{made.pk}/schedule/", {"send_at": send_at, "revision": "1"})
    assert (answer.status_code, expected in answer.text) == (422, True)
    made.refresh_from_db()
    assert made.state == State.DRAFT


def test_scheduled_can_be_unscheduled_cancelled_copied() -> None:
    client = browser(*ALL)
    made = draft()
    attempts(made)["schedule"](client)
    page = client.get(f"{LIST}{made.pk}/change/").text
    assert "It will be sent at" in page
    assert "<textarea" not in page
    assert "a draft again" in client.post(f"{LIST}{made.pk}/unschedule/", follow=True).text
    made.refresh_from_db()
    attempts(made)["schedule"](client)
    assert (
        "This broadcast was cancelled. It was never sent." in client.post(f"{LIST}{made.pk}/cancel/", follow=True).text
    )
    assert "Nothing has been sent." in client.post(f"{LIST}{made.pk}/copy/", follow=True).text
    assert list(Broadcast.objects.order_by("pk").values_list("state", flat=True)) == ["cancelled", "draft"]
