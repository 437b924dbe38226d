"""RETENTION_BYTES, and the sum of the sizes that the log keeps for it."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from streams import NewMessage, log, publish
from streams.log import retention
from streams.models import LogSize, Message
from tests.log.support import left, publish_some

pytestmark = pytest.mark.django_db(transaction=True)


def test_bytes_limit_prunes_the_oldest(keep: Any) -> None:
    keep(RETENTION_BYTES=10)
    publish_some(5, "ab", "üü")  # four bytes each
    assert retention.prune() == 3
    assert left() == [4, 5]
    assert retention.prune() == 0
    publish("a", "exactly 10")
    assert retention.prune() == 2
    assert left() == [6]


def test_message_beyond_the_limit_is_pruned(keep: Any) -> None:
    keep(RETENTION_BYTES=10)
    publish("a", "x" * 11)
    assert retention.prune() == 1
    assert left() == []


def counted() -> int:
    """Count the new messages, as a pruning does, and return the stored sum."""
    while log.count_size(step=7):
        pass
    return LogSize.objects.get().bytes


def test_size_is_exact_through_all_changes(keep: Any) -> None:
    def check() -> None:
        actual = sum(Message.objects.exclude(position=None).values_list("size", flat=True))
        assert log.size() == log.size(scan=True) == actual

    for round in range(1, 6):
        publish_some(20, "abc", "ü" * round)
        check()
        log.count_size(step=13)  # counts only a part
        check()
        log.delete_through(round * 10, channel="a", limit=5)
        check()
        log.delete_through(round * 18, start=round * 12, spared=["b"], limit=4)
        log.append([NewMessage("a", "not sequenced")])
        check()
        assert counted() == log.size(scan=True)
        check()


def test_counted_rows_are_not_read_again(keep: Any) -> None:
    keep(RETENTION_BYTES=10**6)
    publish_some(1000)
    retention.prune()
    publish_some(5)
    with CaptureQueriesContext(connection) as queries:
        retention.prune()
    sums = [query["sql"] for query in queries.captured_queries if "SUM(" in query["sql"]]
    assert sums
    with connection.cursor() as cursor:
        for statement in sums:
            cursor.execute("SELECT count(*) FROM streams_message " + statement[statement.index("WHERE") :])
            assert cursor.fetchone()[0] <= 5, statement


def test_rows_deleted_by_hand_prune_nothing(keep: Any) -> None:
    """The stored sum is too large then, and must not cost other messages."""
    keep(RETENTION_BYTES=100)
    publish_some(100)
    assert retention.prune() == 0
    Message.objects.filter(position__lte=90).delete()
    publish_some(50)
    assert [cut.messages() for cut in retention.cuts()] == []
    assert retention.prune() == 0
    assert len(left()) == 60


@pytest.mark.parametrize("days", [-2, 2])
def test_size_is_recounted_every_day(keep: Any, days: int) -> None:
    publish_some(100)
    assert counted() == 100
    Message.objects.filter(position__lte=5).delete()
    assert counted() == 100
    LogSize.objects.update(counted_from=timezone.now() + datetime.timedelta(days=days))
    assert counted() == 95
