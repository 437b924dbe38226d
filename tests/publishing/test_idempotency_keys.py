"""Idempotency keys: a key that is published again returns the first message."""

from __future__ import annotations

import pytest
from django.db import transaction

from streams import NewMessage, log, publish, publish_many
from streams.notifiers import Notice
from tests.publishing.support import rolled_back, stored

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("inside", [False, True])
def test_same_key_returns_the_first_message(inside: bool) -> None:
    first = publish("news", "first", idempotency_key="key")
    publish("news", "between")
    if inside:
        with transaction.atomic():
            second = publish("news", "second", event="other", idempotency_key="key")
            assert second.position == 1  # the first message already has a position
    else:
        second = publish("news", "second", event="other", idempotency_key="key")
    assert (second, second.position, second.data, second.event) == (first, 1, "first", "message")
    assert stored() == [(1, "first"), (2, "between")]


def test_key_belongs_to_one_channel() -> None:
    assert publish("news", "x", idempotency_key="key").position == 1
    assert publish("news2", "x", idempotency_key="key").position == 2
    assert publish("news", "x", idempotency_key="Key").position == 3
    assert publish("news", "x").position == 4
    assert publish("news", "x").position == 5


def test_key_twice_in_transaction_appends_once() -> None:
    with transaction.atomic():
        first = publish("news", "first", idempotency_key="key")
        second = publish("news", "second", idempotency_key="key")
        assert second.pk == first.pk
    assert (first.position, second.position) == (1, 1)
    assert stored() == [(1, "first")]


def test_key_is_free_after_a_rollback() -> None:
    with rolled_back():
        publish("news", "ghost", idempotency_key="key")
    assert publish("news", "real", idempotency_key="key").data == "real"
    assert stored() == [(1, "real")]


@pytest.mark.parametrize("inside", [False, True])
def test_keys_among_many_keep_the_order(inside: bool) -> None:
    publish("news", "old", idempotency_key="old")
    new = [
        NewMessage("news", "a", idempotency_key="twice"),
        NewMessage("news", "b"),
        NewMessage("news", "c", idempotency_key="old"),
        NewMessage("news", "d", idempotency_key="twice"),
        NewMessage("other", "e", idempotency_key="twice"),
        NewMessage("news", "f"),
    ]
    if inside:
        with transaction.atomic():
            messages = publish_many(new)
    else:
        messages = publish_many(new)
    assert stored() == [(1, "old"), (2, "a"), (3, "b"), (4, "e"), (5, "f")]
    assert [message.position for message in messages] == [2, 3, 1, 2, 4, 5]


def test_many_keys_can_be_published_together() -> None:
    new = [NewMessage(f"channel.{n % 7}", n, idempotency_key=f"key {n}") for n in range(2500)]
    first = publish_many(new)
    assert [message.position for message in first] == list(range(1, 2501))
    assert publish_many(new) == first
    assert len(stored()) == 2500


def test_known_keys_append_nothing(notices: list[Notice]) -> None:
    publish("news", "x", idempotency_key="key")
    notices.clear()
    assert publish_many([NewMessage("news", "y", idempotency_key="key")] * 3)[2].position == 1
    assert stored() == [(1, "x")]
    assert notices == []


def test_key_of_unsequenced_message_returns_position() -> None:
    log.append([NewMessage("news", "left", idempotency_key="key")])  # like a process that died after its commit
    message = publish("news", "again", idempotency_key="key")
    assert (message.data, message.position) == ("left", 1)
