"""Pruning in one process: its batches, its lease, and when it runs."""

from __future__ import annotations

import datetime
import itertools
import time
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from streams import log
from streams.log import retention
from streams.log.pruning import MAX_PRUNED_CHANNELS
from streams.models import Channel, Lease, LogHead
from tests.log.support import age, left, publish_some

pytestmark = pytest.mark.django_db(transaction=True)


# --- Batches ----------------------------------------------------------------------------------------------------------


def test_each_batch_is_one_transaction(keep: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1)
    publish_some(2 * retention.BATCH_MESSAGES + 2)
    with CaptureQueriesContext(connection) as queries:
        assert retention.prune() == 2 * retention.BATCH_MESSAGES + 1
    statements = [query["sql"].split()[0] for query in queries.captured_queries]
    deletes = [index for index, word in enumerate(statements) if word == "DELETE"]
    assert len(deletes) == 3
    for earlier, later in itertools.pairwise(deletes):
        assert "COMMIT" in statements[earlier:later]
    assert left() == [2 * retention.BATCH_MESSAGES + 2]


def test_each_batch_records_its_deletions(keep: Any) -> None:
    """A reader between two batches sees the record of every deletion so far."""
    publish_some(1000, "ab")
    while log.delete_through(1000, limit=7):
        remaining = left()
        first = remaining[0] if remaining else 1001
        assert max(log.pruned(["a", "b"], 0).values()) == first - 1


def test_pruning_stops_at_its_time_limit(keep: Any) -> None:
    publish_some(5)
    age(100, *range(1, 6))
    keep(RETENTION_SECONDS=50, RETENTION_MESSAGES_PER_CHANNEL=1)
    assert retention.prune(max_seconds=-1) == 0
    assert len(left()) == 5
    assert retention.prune() == 5


def test_log_without_head_can_be_pruned(keep: Any) -> None:
    keep(RETENTION_SECONDS=1, RETENTION_MESSAGES_PER_CHANNEL=1, RETENTION_BYTES=1)
    LogHead.objects.all().delete()
    assert retention.prune_if_due() == 0
    assert retention.prune() == 0


def test_oldest_pruned_channels_are_forgotten(keep: Any) -> None:
    log.current_head()  # creates the row of the head if it does not exist
    count = MAX_PRUNED_CHANNELS + 10
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO streams_channel (name, pruned_through)
            WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
            SELECT 'once.' || n, n FROM numbers
            """
        )
    retention.prune()
    assert Channel.objects.count() == MAX_PRUNED_CHANNELS
    assert log.head().floor == 10
    assert log.pruned(["once.11"], 10) == {"once.11": 11}


# --- When it runs -----------------------------------------------------------------------------------------------------


def test_pruning_runs_only_when_due(keep: Any, settings: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=60)
    publish_some(3)
    assert retention.prune_if_due() == 2
    publish_some(3)
    assert retention.prune_if_due() == 0
    Lease.objects.update(expires_at=timezone.now() - datetime.timedelta(seconds=1))
    assert retention.prune_if_due() == 3


def test_automatic_pruning_can_be_disabled(keep: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=None)
    publish_some(3)
    assert retention.prune_if_due() == 0
    assert retention.prune() == 2


# --- The lease --------------------------------------------------------------------------------------------------------


@pytest.fixture
def between_batches(monkeypatch: Any) -> Any:
    """Return a function that sets a callback, which runs before each batch. Each batch is one message."""
    real = log.delete_through

    def set_function(function: Any) -> None:
        def delete_through(*args: Any, **kwargs: Any) -> int:
            function()
            return real(*args, **kwargs)

        monkeypatch.setattr(log, "delete_through", delete_through)
        monkeypatch.setattr(retention, "BATCH_MESSAGES", 1)

    return set_function


def expires_at() -> datetime.datetime:
    moment = Lease.objects.get(name=retention.LEASE).expires_at
    assert moment is not None
    return moment


def test_long_pruning_stays_the_only_one(keep: Any, between_batches: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=0.01)
    publish_some(4)
    results = []

    def try_as_another_process() -> None:
        time.sleep(0.05)
        if not results:
            results.append(0)
            results.append(retention.prune_if_due())

    between_batches(try_as_another_process)
    assert retention.prune_if_due() == 3
    assert results == [0, 0]


def test_lease_is_renewed_during_pruning(keep: Any, between_batches: Any, monkeypatch: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=3600)
    monkeypatch.setattr(retention, "RENEW_SECONDS", 0.0)
    publish_some(4)
    seen = []

    def look_and_let_it_expire() -> None:
        seen.append(expires_at() - timezone.now())
        Lease.objects.update(expires_at=timezone.now())

    between_batches(look_and_let_it_expire)
    assert retention.prune_if_due() == 3
    # After a process dies, the others wait for a few minutes only, even if PRUNE_SECONDS is long.
    assert all(datetime.timedelta(seconds=150) < left <= datetime.timedelta(seconds=301) for left in seen)
    # At the end, the lease lasts until the next pruning is due.
    assert expires_at() - timezone.now() > datetime.timedelta(seconds=3000)
    assert retention.prune_if_due() == 0


def test_lost_lease_stops_the_pruning(keep: Any, between_batches: Any, monkeypatch: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=60)
    monkeypatch.setattr(retention, "RENEW_SECONDS", 0.0)
    publish_some(6)
    between_batches(lambda: Lease.objects.update(holder="another"))
    assert retention.prune_if_due() == 1
    assert Lease.objects.get().holder == "another"
    assert retention.prune() == 4  # called directly, it needs no lease


def test_lease_far_ahead_stops_no_pruning(keep: Any) -> None:
    keep(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=60)
    publish_some(3)
    Lease.objects.create(name="prune", holder="", expires_at=timezone.now() + datetime.timedelta(hours=5))
    assert retention.prune_if_due() == 2
