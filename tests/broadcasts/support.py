"""Helpers for the tests of broadcasts."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from streams.models import Broadcast, Message

database = pytest.mark.django_db(transaction=True)


State = Broadcast.State


def draft(**fields: Any) -> Broadcast:
    defaults = {"title": "Night works", "channels": ["news"], "payload": "No trains after 22:00."}
    return Broadcast.objects.create(**{**defaults, **fields})


def in_an_hour() -> datetime.datetime:
    return timezone.now() + datetime.timedelta(hours=1)


def make_due(broadcast: Broadcast, by: User | None = None, seconds: float = 1) -> None:
    send_at = timezone.now() - datetime.timedelta(seconds=seconds)
    Broadcast.objects.filter(pk=broadcast.pk).update(state=State.SCHEDULED, send_at=send_at, scheduled_by=by)


def stored() -> list[tuple[Any, ...]]:
    return list(Message.objects.order_by("position").values_list("position", "channel", "event", "data"))


def prepare(due: str = "yes", channels: str = "news") -> None:
    made = draft(channels=channels.split())
    if due == "yes":
        make_due(made)
    print(made.pk)
