"""Tasks of Django 6, and of its backport django-tasks, publish: in the caller's transaction, and on an event loop."""

from __future__ import annotations

from typing import Any

import django
import pytest
from django.db import transaction
from django.test import AsyncClient

from streams import apublish, publish
from streams.models import Message
from streams.testing import read_events

if django.VERSION >= (6, 0):
    from django.tasks import task
    from django.tasks.backends.immediate import ImmediateBackend
else:
    pytest.importorskip("django_tasks")
    from django_tasks import task
    from django_tasks.backends.immediate import ImmediateBackend

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _immediate(settings: Any) -> None:
    backend = f"{ImmediateBackend.__module__}.{ImmediateBackend.__qualname__}"
    settings.TASKS = {"default": {"BACKEND": backend}}


@task
def announce(text: str) -> None:
    publish("news", text)


@task
async def announce_on_a_loop(text: str) -> None:
    await apublish("news", text)


def published() -> list[tuple[int | None, str]]:
    return list(Message.objects.order_by("pk").values_list("position", "data"))


@pytest.mark.parametrize("either", [announce, announce_on_a_loop], ids=["sync", "async"])
def test_task_publishes(either: Any) -> None:
    assert str(either.enqueue("one").status) == "SUCCESSFUL"
    assert published() == [(1, "one")]


def test_task_publishes_in_the_callers_transaction() -> None:
    with transaction.atomic():
        announce.enqueue("one")
        assert published() == [(None, "one")]
    with transaction.atomic():
        announce.enqueue("two")
        transaction.set_rollback(True)
    assert published() == [(1, "one")]


@pytest.mark.parametrize("either", [announce, announce_on_a_loop], ids=["sync", "async"])
async def test_task_from_an_event_loop_reaches_streams(either: Any) -> None:
    response = await AsyncClient().get("/events/news/")
    await either.aenqueue("one")
    assert [event.data for event in await read_events(response, 1)] == ["one"]
