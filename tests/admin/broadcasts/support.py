"""Helpers for the tests of the broadcast pages."""

from __future__ import annotations

import datetime
from typing import Any

from django.test import Client
from django.utils import timezone

from streams.models import Broadcast
from tests.admin.people import staff

State = Broadcast.State

LIST = "/admin/streams/broadcast/"


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
    """Return a dict that maps the name of each view to a function that sends a request to it."""
    post = {"revision": str(made.revision)}
    return {
        "list": lambda c: c.get(LIST),
        "look": lambda c: c.get(f"{LIST}{made.pk}/change/"),
        "add": lambda c: c.get(f"{LIST}add/"),
        "add post": lambda c: c.post(f"{LIST}add/", TEXT),
        "edit": lambda c: c.post(f"{LIST}{made.pk}/change/", {**TEXT, **post}),
        "confirm": lambda c: c.get(f"{LIST}{made.pk}/send/"),
        "send": lambda c: c.post(f"{LIST}{made.pk}/send/", post),
        "when": lambda c: c.get(f"{LIST}{made.pk}/schedule/"),
        "schedule": lambda c: c.post(f"{LIST}{made.pk}/schedule/", {**post, "send_at": local(tomorrow())}),
        "unschedule": lambda c: c.post(f"{LIST}{made.pk}/unschedule/"),
        "cancel": lambda c: c.post(f"{LIST}{made.pk}/cancel/"),
        "copy": lambda c: c.post(f"{LIST}{made.pk}/copy/"),
        "preview": lambda c: c.post(f"{LIST}preview/", TEXT),
        "test": lambda c: c.post(f"{LIST}test/", TEXT),
        "known": lambda c: c.get(f"{LIST}known/?q=n"),
        "audience": lambda c: c.get(f"{LIST}audience/?channel=news"),
        "reached": lambda c: c.get(f"{LIST}{made.pk}/reached/"),
        "delete": lambda c: c.post(f"{LIST}{made.pk}/delete/", {"post": "yes"}),
    }
