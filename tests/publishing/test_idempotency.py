"""Idempotency keys: each key belongs to one message, and a strict key refuses a different message."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.db import transaction

from streams import NewMessage, apublish_many, publish, publish_many
from streams.exceptions import IdempotencyKeyReused
from streams.models import Message


def keyed(data: Any, key: str = "k", channel: str = "news", event: str = "message") -> NewMessage:
    return NewMessage(channel, data, event, key, strict_key=True)


@pytest.mark.django_db
def test_message_says_whether_this_call_has_appended_it() -> None:
    assert publish("news", 1).is_new
    first, again = publish("news", 1, idempotency_key="k"), publish("news", 1, idempotency_key="k")
    assert (first.is_new, again.is_new) == (True, False)
    assert first.pk == again.pk
    assert not Message.objects.get(pk=first.pk).is_new


@pytest.mark.django_db
@pytest.mark.parametrize("other", [keyed(2), keyed(1, event="alert")])
def test_strict_key_of_another_message_appends_nothing_of_the_call(other: NewMessage) -> None:
    publish_many([keyed(1)])
    with pytest.raises(IdempotencyKeyReused, match=r"'k' was used on news.*Nothing was published"):
        publish_many([NewMessage("a", "x"), keyed("fresh", "another"), other])
    assert Message.objects.count() == 1


@pytest.mark.django_db
def test_strict_key_twice_in_a_call_is_of_the_same_message() -> None:
    rows = publish_many([keyed(1), keyed(1)])
    assert rows[0].pk == rows[1].pk
    with pytest.raises(IdempotencyKeyReused):
        publish_many([keyed(1, "x"), keyed(2, "x")])
    assert Message.objects.count() == 1


@pytest.mark.django_db
def test_plain_key_returns_the_first_message_whatever_it_was() -> None:
    publish("news", 1, idempotency_key="k")
    assert publish("news", 2, idempotency_key="k").data == "1"


@pytest.mark.django_db(transaction=True)
def test_refused_key_leaves_the_callers_transaction_as_it_was() -> None:
    publish_many([keyed(1)])
    with transaction.atomic():
        publish("news", "before")
        with pytest.raises(IdempotencyKeyReused):
            publish_many([keyed("fresh", "another"), keyed(2)])
        publish("news", "after")
    assert list(Message.objects.order_by("position").values_list("position", "data")) == [
        (1, "1"),
        (2, "before"),
        (3, "after"),
    ]


@pytest.mark.django_db(transaction=True)
async def test_of_many_different_ones_at_once_one_is_published_and_the_others_are_refused() -> None:
    found = await asyncio.gather(*(apublish_many([keyed(n)]) for n in range(6)), return_exceptions=True)
    refused = [each for each in found if isinstance(each, IdempotencyKeyReused)]
    assert len(refused) == 5
    assert await Message.objects.acount() == 1
