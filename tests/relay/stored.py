"""Helpers for the tests of stored generations, which call the steps of a worker directly."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from django.db.models.functions import Now

from streams.models import Message
from streams.relay.access import Principal
from streams.relay.generations import chunks as reading
from streams.relay.generations import store
from streams.relay.generations.endings import Batch
from streams.relay.models import Generation

database = pytest.mark.django_db(transaction=True)
State = Generation.State
BODY = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
ANN = Principal(None, "address 192.0.2.1")
KEY = "5e9b3a46-1f1d-4d0a-9a8e-0d1f6a3f2b11"


def ask(caller: Principal = ANN, key: str | None = None, **body: Any) -> Generation:
    return store.create(caller, {**BODY, **body}, "default", key)[0]


def running(worker: str = "w") -> Generation:
    made = ask()
    [generation] = [each for each in store.claim(worker, 100) if each.pk == made.pk]
    return generation


def pieces(generation: Generation, *texts: str, number: int = 0, **more: Any) -> Batch:
    return Batch(generation.pk, number, texts, **more)


def messages_of(generation: Generation) -> list[tuple[str, Any]]:
    """Return the type and the data of the generation's messages."""
    rows = Message.objects.filter(channel=generation.channel).order_by("position")
    return [(row.event, json.loads(row.data)) for row in rows]


def text_of(generation: Generation) -> str:
    return reading.read(generation.pk).text


def expire_lease(generation: Generation) -> None:
    Generation.objects.filter(pk=generation.pk).update(lease_until=Now() - datetime.timedelta(seconds=1))
