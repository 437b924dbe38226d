"""The queries of the log read few rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from streams import log
from streams.log import retention
from streams.models import LogHead, LogSize
from tests.log.support import appended, positions
from tests.support.reads import sqlite_steps, tail

pytestmark = pytest.mark.django_db(transaction=True)


ROWS = 50_000


FEW = ["busy", "channel.1", "channel.2"]


MANY = ["busy", *(f"channel.{n}" for n in range(49))]


@pytest.fixture
def large_log() -> None:
    """A log of 50,000 messages on a hundred channels. Every other message is on `busy`."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO streams_message (position, channel, event, data, size, created_at)
            WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS})
            SELECT n, CASE WHEN n % 2 = 0 THEN 'busy' ELSE 'channel.' || (n / 2 % 100) END, 'message',
                   'some data of an ordinary length, number ' || n, 50, CURRENT_TIMESTAMP
            FROM numbers
            """
        )
        cursor.execute("ANALYZE streams_message")
    LogHead.objects.all().delete()
    LogHead.objects.create(head=ROWS, floor=ROWS - 100)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def rows_read(statement: str) -> int:
    """Return how many rows PostgreSQL reads from the table for a statement, including those it filters out."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
        (text,) = cursor.fetchone()
    plan = (json.loads(text) if isinstance(text, str) else text)[0]["Plan"]
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes(plan)
        if "Relation Name" in node
    )


def query_plan(statement: str) -> str:
    """Return the plan of SQLite for a statement."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {statement}")
        return "\n".join(row[3] for row in cursor.fetchall())


@pytest.mark.parametrize("channels", [["busy"], ["channel.7"], ["nobody's"], FEW, MANY], ids=len)
@pytest.mark.parametrize("after", [0, ROWS // 2, ROWS - 200])
def test_page_reads_few_rows(large_log: None, channels: list[str], after: int) -> None:
    expected = [
        n
        for n in range(after + 1, ROWS + 1)
        if ("busy" if n % 2 == 0 else f"channel.{n // 2 % 100}") in channels
    ][: log.PAGE_MESSAGES]  # fmt: skip
    with CaptureQueriesContext(connection) as queries:
        page = log.page(channels, after, ROWS)
    assert positions(page.messages) == expected
    statement = queries.captured_queries[0]["sql"]
    if connection.vendor == "postgresql":
        # Each part of the union can read one row ahead. If it finds a page soon, the planner can also read the index
        # of positions and filter.
        assert rows_read(statement) <= 5 * log.PAGE_MESSAGES + len(channels)
    else:
        plan = query_plan(statement)
        assert "TEMP B-TREE" not in plan, plan
        assert "SCAN" not in plan, plan
        assert "streams_message_replay" in plan, plan


def test_other_reads_read_few_rows(large_log: None) -> None:
    reads = {
        "tail": lambda: tail(1000),
        "newest": lambda: log.newest(ROWS),
        "head": log.head,
        "earliest": lambda: log.earliest(FEW),
        "start_of_newest": lambda: log.start_of_newest(FEW, 100, ROWS),
        "pruned": lambda: log.pruned(MANY, ROWS // 2),
        "start of a quiet channel": lambda: log.start_of_newest(["nobody's"], 100, ROWS),
    }
    for name, read in reads.items():
        with CaptureQueriesContext(connection) as queries:
            read()
        for query in queries.captured_queries:
            if connection.vendor == "postgresql":
                assert rows_read(query["sql"]) <= 3 * log.PAGE_MESSAGES, name
            else:
                plan = query_plan(query["sql"])
                assert "TEMP B-TREE" not in plan, f"{name}: {plan}"
                assert "SCAN streams_message" not in plan or "streams_message_unsequenced" in plan, f"{name}: {plan}"


def test_sequencing_reads_few_rows(large_log: None) -> None:
    [row] = appended("left")
    with CaptureQueriesContext(connection) as queries:
        assert log.sequence() == {row.pk: ROWS + 1}
    updates = [query["sql"] for query in queries.captured_queries if "position IS NULL" in query["sql"]]
    assert updates
    for statement in updates:
        if connection.vendor == "postgresql":
            with transaction.atomic():
                assert rows_read(statement) < 20
                transaction.set_rollback(True)
        else:
            plan = query_plan(statement)
            assert "SCAN streams_message" not in plan, plan


NO_RETENTION = {"RETENTION_SECONDS": None, "RETENTION_MESSAGES_PER_CHANNEL": None}

PRUNING: dict[str, Callable[[], object]] = {
    "a batch": lambda: log.delete_through(ROWS, limit=100),
    "a batch of a channel": lambda: log.delete_through(ROWS, channel="busy", limit=100),
    "a batch without a channel": lambda: log.delete_through(ROWS, spared=["busy"], limit=100),
    "a step of counting": lambda: log.count_size(step=100),
    "bytes": lambda: list(retention.cuts({})),
    "channels with new messages": lambda: retention._new_channels(ROWS - 10),
}


@pytest.mark.skipif(connection.vendor != "sqlite", reason="It counts the steps of SQLite.")
@pytest.mark.parametrize("name", PRUNING)
def test_pruning_reads_only_what_it_deletes(large_log: None, settings: Any, name: str) -> None:
    while log.count_size():
        pass
    if name == "a step of counting":
        LogSize.objects.update(through=0, bytes=0)
    settings.STREAMS = {**settings.STREAMS, "RETENTION_BYTES": 50 * (ROWS - 500), **NO_RETENTION}
    with sqlite_steps() as steps:
        assert PRUNING[name]()
    # Reading one column of all messages takes 250,000 steps or more.
    assert len(steps) < 150
