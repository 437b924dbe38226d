"""Helpers for the tests of the broadcast pages."""

from __future__ import annotations

import datetime
from typing import Any

from django.test import Client
from django.utils import timezone

from streams.models import Broadcast
from tests.admin.people import staff

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


def attempts(made: Broadcast) -> dict[str, Any]:
    """Return {name: function that sends the request} for every view."""
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
        "copy": lambda c: c.post(f"{DESK}{made.pk}/copy/"),
        "preview": lambda c: c.post(f"{DESK}preview/", TEXT),
        "test": lambda c: c.post(f"{DESK}test/", TEXT),
        "known": lambda c: c.get(f"{DESK}known/?q=n"),
        "audience": lambda c: c.get(f"{DESK}audience/?channel=news"),
        "reached": lambda c: c.get(f"{DESK}{made.pk}/reached/"),
        "delete": lambda c: c.post(f"{DESK}{made.pk}/delete/", {"post": "yes"}),
    }
