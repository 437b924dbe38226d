"""Another session can lock a user's row without delaying that user's messages.

tests/system/test_own_database.py repeats these tests with the log in a separate database.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections, transaction

from streams import publish
from streams.broadcasts import lifecycle
from streams.models import Broadcast, Message
from streams.relay.access import Principal
from streams.relay.generations import store
from streams.relay.models import Generation, Usage
from streams.runtime.database import database
from tests.models.support import BODY, spend

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")


_threads: list[threading.Thread] = []


@pytest.fixture
def locked(ann: User) -> Iterator[User]:
    """A user whose row another session has locked with `select_for_update()`."""
    if connections["default"].vendor != "postgresql":
        pytest.skip("SQLite locks no rows")
    is_held, is_free, is_done = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic():
                User.objects.select_for_update().get(pk=ann.pk)
                is_held.set()
                is_free.wait(60)
        finally:
            connections.close_all()
            is_done.set()

    threading.Thread(target=hold).start()
    assert is_held.wait(30)
    yield ann
    is_free.set()
    assert is_done.wait(30)
    while _threads:
        _threads.pop().join(30)


def in_thread(function: Any, *args: Any, **kwargs: Any) -> threading.Thread:
    """Start the function in a thread. `locked` waits for it at the end of the test."""

    def run() -> None:
        try:
            function(*args, **kwargs)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    _threads.append(thread)
    return thread


def ends(thread: threading.Thread) -> bool:
    """Return True if the thread ends while the row is still locked."""
    thread.join(15)
    return not thread.is_alive()


@pytest.mark.parametrize("key", [None, "key"])
def test_locked_user_can_publish(locked: User, key: str | None) -> None:
    assert ends(in_thread(publish, "news", "x", published_by=locked, idempotency_key=key))
    assert Message.objects.filter(data="x", position__isnull=False).exists()


def test_locked_user_can_ask_the_relay(locked: User) -> None:
    assert ends(in_thread(store.create, Principal(locked, "user"), BODY, "default"))
    assert ends(in_thread(spend, locked))
    assert (Generation.objects.count(), Usage.objects.count()) == (2, 2)


def test_locked_user_can_save_a_draft(locked: User) -> None:
    assert ends(in_thread(lifecycle.save_draft, Broadcast(title="t", created_by=locked), revision=None))


def test_locked_users_broadcast_delays_no_publisher(locked: User) -> None:
    """The admin's record of the broadcast can wait for the user, but only before the head of the log is locked."""
    draft = Broadcast.objects.using(database()).create(title="t", channels=["news"], payload="x")
    in_thread(lifecycle.send, draft.pk, by=locked)
    # The test cannot see how far the other thread is. If that thread held the lock, the next message would wait.
    threading.Event().wait(1)
    assert ends(in_thread(publish, "news", "another's"))
