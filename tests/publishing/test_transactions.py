"""publish inside a transaction: the message belongs to the caller's transaction."""

from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.test import AsyncClient

from streams import NewMessage, apublish, apublish_many, log, publish, publish_many
from streams.exceptions import InvalidMessage
from streams.models import Message
from streams.notifiers import Notice
from streams.testing import read_events
from tests.publishing.support import in_thread, off_the_loop, rolled_back, stored
from tests.support.reads import tail

pytestmark = pytest.mark.django_db(transaction=True)


def test_message_gets_its_position_after_commit() -> None:
    positions: list[int | None] = []
    with transaction.atomic():
        one = publish("news", "one")
        with transaction.atomic():
            two, three = publish_many([NewMessage("news", "two"), NewMessage("user.7", "three")])
        transaction.on_commit(lambda: positions.extend([one.position, two.position, three.position]))
        assert [one.position, two.position, three.position] == [None] * 3
    assert positions == [1, 2, 3]  # as seen by a hook that was registered later
    assert [one.position, two.position, three.position] == [1, 2, 3]
    assert stored() == [(1, "one"), (2, "two"), (3, "three")]


def test_rolled_back_message_never_existed(notices: list[Notice]) -> None:
    publish("news", "before")
    with rolled_back():
        ghost = publish("news", "ghost")
        publish_many([NewMessage("news", "ghost")] * 3)
    assert ghost.position is None
    assert publish("news", "after").position == 2
    assert stored() == [(1, "before"), (2, "after")]
    assert tail(0)[1] == [(1, "news", "message", "before"), (2, "news", "message", "after")]
    assert [message.data for notice in notices for message in notice.messages] == ["before", "after"]


async def test_rolled_back_message_is_not_delivered() -> None:
    def roll_back() -> None:
        with rolled_back():
            publish("news", "ghost")

    response = await AsyncClient().get("/events/news/")
    await off_the_loop(roll_back)
    await apublish("news", "first")
    await off_the_loop(roll_back)
    await apublish("news", "second")
    events = await read_events(response, 2)
    assert [(event.id, event.data) for event in events] == [("1", "first"), ("2", "second")]


def test_rolled_back_savepoint_drops_its_messages() -> None:
    with transaction.atomic():
        kept = [publish("news", "kept 1")]
        with rolled_back():
            lost = publish("news", "lost")
            with transaction.atomic():
                publish("news", "lost")
        kept.append(publish("news", "kept 2"))
        with transaction.atomic():
            kept.append(publish("news", "kept 3"))
    assert [message.position for message in kept] == [1, 2, 3]
    assert lost.position is None
    assert stored() == [(1, "kept 1"), (2, "kept 2"), (3, "kept 3")]


def test_first_publish_can_be_rolled_back() -> None:
    with transaction.atomic():
        with rolled_back():
            publish("news", "lost")
        kept = publish("news", "kept")
    assert kept.position == 1
    assert stored() == [(1, "kept")]


def test_notices_contain_no_reused_ids(notices: list[Notice]) -> None:
    """After a rollback, SQLite gives the same id to the next row, which can be another process's."""

    def elsewhere() -> None:
        in_thread(lambda: log.append([NewMessage("news", "another's")]))

    with transaction.atomic():
        transaction.on_commit(elsewhere)  # runs before the hook of publish, which then numbers both messages
        publish("news", "kept")
        with rolled_back():
            publish("news", "ghost")
    assert stored() == [(1, "kept"), (2, "another's")]
    for notice in notices:
        for message in notice.messages:
            assert (message.position, message.data) in stored()
    assert [(notice.first, notice.last) for notice in notices] == [(1, 2)]


def test_failed_publish_keeps_transaction_usable() -> None:
    with transaction.atomic():
        publish("news", "before")
        with pytest.raises(InvalidMessage):
            publish("news", "nul \0")
        publish("news", "after", idempotency_key="key")
        publish("news", "again", idempotency_key="key")
    assert stored() == [(1, "before"), (2, "after")]


def test_transaction_sends_one_notice(notices: list[Notice]) -> None:
    with transaction.atomic():
        publish("news", "one")
        publish("news", "two")
    publish_many([NewMessage("news", "three"), NewMessage("news", "four")])
    assert [(notice.first, notice.last) for notice in notices] == [(1, 2), (3, 4)]


def test_apublish_joins_a_sync_callers_transaction() -> None:
    with rolled_back():
        async_to_sync(apublish)("news", "ghost")
        async_to_sync(apublish_many)([NewMessage("news", "ghost")])
    with transaction.atomic():
        message = async_to_sync(apublish)("news", "kept")
        assert message.position is None
    assert message.position == 1
    assert stored() == [(1, "kept")]


def test_publish_works_in_on_commit_hooks() -> None:
    published: list[Message] = []
    with transaction.atomic():
        transaction.on_commit(lambda: published.append(publish("news", "by the hook")))
        inside = publish("news", "inside")
    # The publish in the hook numbers all committed messages in the order of their inserts.
    assert (inside.position, published[0].position) == (1, 2)
