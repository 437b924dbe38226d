"""The positions of messages, and the head of the log."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from streams import NewMessage, log, publish, publish_many
from streams.log import postgresql, sqlite
from streams.models import LogHead, Message
from tests.log.support import appended
from tests.support.reads import tail

pytestmark = pytest.mark.django_db(transaction=True)


def position_of(pk: int) -> int | None:
    return Message.objects.values_list("position", flat=True).get(pk=pk)


# --- Positions --------------------------------------------------------------------------------------------------------


def test_appended_messages_have_no_position() -> None:
    """No reader sees such a message."""
    [row] = appended("x")
    assert row.position is None
    assert Message.objects.get().position is None
    assert log.page(["news"], 0, 10).messages == []
    assert log.newest(10) == []
    assert log.earliest(["news"]) is None
    assert log.head().unsequenced
    assert position_of(row.pk) is None


def test_sequence_follows_the_inserts() -> None:
    """Messages get positions in the order in which they were inserted."""
    rows = appended("a", "b") + appended("c", channel="other")
    assert log.sequence() == {rows[0].pk: 1, rows[1].pk: 2, rows[2].pk: 3}
    assert log.sequence() == {}
    [later] = appended("d")
    assert log.sequence() == {later.pk: 4}
    assert list(Message.objects.order_by("position").values_list("data", flat=True)) == ["a", "b", "c", "d"]
    assert log.head() == log.Head(head=4, floor=0, unsequenced=False)
    assert position_of(later.pk) == 4


def test_sequence_numbers_many_at_once() -> None:
    rows = appended(*map(str, range(3000)))
    given = log.sequence()
    assert list(given) == [row.pk for row in rows]
    assert list(given.values()) == list(range(1, 3001))
    assert LogHead.objects.get().head == 3000


def test_head_that_appears_while_it_is_looked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes publish their first messages at the same time, and one commits between two queries of the other."""
    module = postgresql if connection.vendor == "postgresql" else sqlite
    take = module.wait_for_lock
    answers = [None]
    [row] = appended("x")
    log.sequence()  # the other process
    [later] = appended("y")
    monkeypatch.setattr(module, "wait_for_lock", lambda cursor: answers.pop() if answers else take(cursor))
    assert log.sequence() == {later.pk: position_of(row.pk) + 1}  # type: ignore[operator]


def test_rolled_back_sequence_can_be_repeated() -> None:
    [row] = appended("x")
    with transaction.atomic():
        assert log.sequence() == {row.pk: 1}
        transaction.set_rollback(True)
    assert log.head() in (log.Head(0, 0, True), log.Head(head=0, floor=0, unsequenced=True))
    assert log.sequence() == {row.pk: 1}


def test_position_is_unique() -> None:
    publish("news", "x")
    with pytest.raises(IntegrityError):
        Message.objects.create(channel="news", data="x", size=1, position=1)


def test_positions_continue_in_a_pruned_log() -> None:
    publish_many([NewMessage("news", n) for n in range(3)])
    assert log.delete_through(3, limit=10) == 3
    assert publish("news", "next").position == 4


# --- The head ---------------------------------------------------------------------------------------------------------


def test_head_costs_one_query() -> None:
    """If no message waits for a position, nothing is written."""
    publish("news", "x")
    with CaptureQueriesContext(connection) as queries:
        assert log.head() == log.Head(head=1, floor=0, unsequenced=False)
        assert log.current_head() == 1
    assert len(queries) == 2


def test_current_head_numbers_waiting_messages() -> None:
    """For example, a process that dies after its commit leaves such a message."""
    publish("news", "x")
    appended("left")
    assert log.current_head() == 2
    assert not log.head().unsequenced


def test_empty_log_has_head_zero() -> None:
    assert log.current_head() == 0
    assert tail(0) == (0, [])


def test_missing_head_loses_nothing() -> None:
    publish_many([NewMessage("news", n) for n in range(5)])
    appended("left")
    LogHead.objects.all().delete()
    assert tail(4) == (6, [(5, "news", "message", "4"), (6, "news", "message", "left")])
    assert LogHead.objects.get().head == 6


def test_lost_connection_raises_djangos_error() -> None:
    """Setting the isolation level is the first query of a transaction. Callers catch Django's errors."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no server that closes connections")
    connection.ensure_connection()
    connection.connection.pgconn.finish()
    try:
        with pytest.raises(OperationalError), log.own_transaction():
            raise AssertionError("There is no connection.")
    finally:
        connection.close()
