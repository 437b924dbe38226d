"""Every page of the admin works without time zones, with ATOMIC_REQUESTS, and on another admin site."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client, override_settings
from django.utils import timezone

from streams import publish
from streams.broadcasts import lifecycle, schedule
from streams.models import Broadcast, ChannelSettings, Message, Node
from streams.presence import node_row

pytestmark = pytest.mark.django_db(transaction=True)

ADMIN = "/admin/streams/"


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(User.objects.create(username="editor", is_staff=True, is_superuser=True))
    return client


def make_broadcast(**fields: Any) -> Broadcast:
    return Broadcast.objects.create(title="Night works", channels=["news"], payload="No trains.", **fields)


def fill() -> list[str]:
    """Create objects for every page to show, and return the paths of the pages."""
    message = publish("news", {"a": 1}, event="alert")
    ChannelSettings.objects.create(channel="news", title="News")
    Node.objects.create(id="n", host="h", pid=1, started_at=timezone.now(), seen_at=timezone.now())
    node_row.write()
    draft, scheduled, sent = make_broadcast(), make_broadcast(), make_broadcast()
    lifecycle.schedule(scheduled.pk, timezone.now() + datetime.timedelta(days=1), by=None)
    lifecycle.send(sent.pk, by=None)
    today = timezone.now().date()
    pages = ["", "add/", *(f"{one.pk}/change/" for one in (draft, scheduled, sent)), f"{draft.pk}/send/"]
    pages += [
        f"{draft.pk}/schedule/",
        f"{draft.pk}/history/",
        f"{sent.pk}/reached/",
        "known/",
        "audience/?channel=news",
    ]
    return [
        *(f"broadcast/{page}" for page in pages),
        *(f"message/{page}" for page in ("", f"?day={today}", f"{message.pk}/change/", f"{message.pk}/data/")),
        *(
            f"message/{page}"
            for page in (f"{message.pk}/send-again/", "prune/", "diagnosis/", "diagnosis/?message=1&last_event_id=0")
        ),
        *(f"channelsettings/{page}" for page in ("", "news/change/", "other/change/", "news/history/")),
        *(f"monitor/{page}" for page in ("", "?channel=news", "types/?channel=news&after=0", "events/?ids=1")),
        *(f"node/{page}" for page in ("", "data/")),
    ]


def assert_all_are_there(client: Client, pages: list[str]) -> None:
    for page in pages:
        assert client.get(f"{ADMIN}{page}").status_code == 200, page


def test_all_are_there(client: Client) -> None:
    assert_all_are_there(client, fill())


def test_no_page_is_cached(client: Client) -> None:
    for page in fill():
        assert "no-store" in client.get(f"{ADMIN}{page}").headers["Cache-Control"], page


@pytest.mark.skipif(connections["default"].vendor != "sqlite", reason="PostgreSQL's columns always have a time zone")
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_on_a_site_without_time_zones(client: Client, zone: str) -> None:
    with override_settings(USE_TZ=False, TIME_ZONE=zone):
        assert_all_are_there(client, fill())
        assert f":{os.getpid()}" in client.get(f"{ADMIN}node/").text  # fresh by the database's clock
        draft = make_broadcast()
        soon = (timezone.now() + datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M")
        client.post(f"{ADMIN}broadcast/{draft.pk}/schedule/", {"send_at": soon, "revision": "1"})
        draft.refresh_from_db()
        assert draft.send_at is not None
        assert draft.send_at.strftime("%Y-%m-%dT%H:%M") == soon
        assert list(schedule.send_due()) == []


@pytest.fixture
def _atomic_requests() -> Iterator[None]:
    connections["default"].settings_dict["ATOMIC_REQUESTS"] = True
    yield
    connections["default"].settings_dict["ATOMIC_REQUESTS"] = False


@pytest.mark.usefixtures("_atomic_requests")
def test_sending_again_works_with_atomic_requests(client: Client) -> None:
    assert_all_are_there(client, fill())
    text = {"title": "t", "channels": "news", "event": "message", "payload_type": "text", "payload": "sent"}
    client.post(f"{ADMIN}broadcast/add/", text)
    draft = Broadcast.objects.get(payload="sent")
    assert client.post(f"{ADMIN}broadcast/{draft.pk}/change/", {**text, "revision": "1"}).status_code == 302
    client.post(f"{ADMIN}broadcast/{draft.pk}/send/", {"revision": "2"})
    assert Message.objects.filter(data="sent", position__isnull=False).count() == 1
    assert client.post(f"{ADMIN}broadcast/test/", text).json()["position"] is not None


@override_settings(ROOT_URLCONF="tests.admin.urls_of_another_site")
def test_on_another_admin_site(client: Client) -> None:
    for page in fill():
        answer = client.get(f"/desk/streams/{page}")
        assert answer.status_code == 200, page
        assert '="/admin/' not in answer.text, page
    draft = make_broadcast()
    result = client.post(f"/desk/streams/broadcast/{draft.pk}/send/", {"revision": "1"}, follow=True)
    assert result.status_code == 200
    assert result.redirect_chain == [(f"/desk/streams/broadcast/{draft.pk}/change/", 302)]
