"""log.py on its own: giving positions, reading pages, and what pruning leaves behind, on rows in a real database."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from streams import NewMessage, log, publish, publish_many
from streams.log import pruning, reading
from streams.models import Channel, LogHead, Message
from streams.protocol.sse import StoredEvent
from tests.support.reads import tail

pytestmark = pytest.mark.django_db(transaction=True)


def appended(*texts: str, channel: str = "news") -> list[Message]:
    return log.append([NewMessage(channel, text) for text in texts])


def position_of(pk: int) -> int | None:
    return Message.objects.values_list("position", flat=True).get(pk=pk)


def positions(messages: list[StoredEvent]) -> list[int]:
    return [message.position for message in messages]


# --- Giving positions -------------------------------------------------------------------------------------------------


def test_appended_messages_have_no_position_and_no_reader_sees_them() -> None:
    [row] = appended("x")
    assert row.position is None
    assert Message.objects.get().position is None
    assert log.page(["news"], 0, 10).messages == []
    assert log.newest(10) == []
    assert log.earliest(["news"]) is None
    assert log.head().unsequenced
    assert position_of(row.pk) is None


def test_sequence_gives_positions_in_the_order_of_the_inserts() -> None:
    rows = appended("a", "b") + appended("c", channel="other")
    assert log.sequence() == {rows[0].pk: 1, rows[1].pk: 2, rows[2].pk: 3}
    assert log.sequence() == {}
    [later] = appended("d")
    assert log.sequence() == {later.pk: 4}
    assert list(Message.objects.order_by("position").values_list("data", flat=True)) == ["a", "b", "c", "d"]
    assert log.head() == log.Head(head=4, floor=0, unsequenced=False)
    assert position_of(later.pk) == 4


def test_sequence_gives_many_positions_at_once() -> None:
    rows = appended(*map(str, range(3000)))
    given = log.sequence()
    assert list(given) == [row.pk for row in rows]
    assert list(given.values()) == list(range(1, 3001))
    assert LogHead.objects.get().head == 3000


def test_sequence_that_is_rolled_back_gives_the_same_positions_again() -> None:
    [row] = appended("x")
    with transaction.atomic():
        assert log.sequence() == {row.pk: 1}
        transaction.set_rollback(True)
    assert log.head() in (log.Head(0, 0, True), log.Head(head=0, floor=0, unsequenced=True))
    assert log.sequence() == {row.pk: 1}


def test_position_is_given_once() -> None:
    publish("news", "x")
    with pytest.raises(IntegrityError):
        Message.objects.create(channel="news", data="x", size=1, position=1)


def test_positions_go_on_where_everything_was_pruned() -> None:
    publish_many([NewMessage("news", n) for n in range(3)])
    assert log.delete_through(3, limit=10) == 3
    assert publish("news", "next").position == 4


def test_head_is_one_query_and_sequencing_nothing_costs_no_write() -> None:
    publish("news", "x")
    with CaptureQueriesContext(connection) as queries:
        assert log.head() == log.Head(head=1, floor=0, unsequenced=False)
        assert log.current_head() == 1
    assert len(queries) == 2


def test_current_head_counts_what_a_dead_process_left() -> None:
    publish("news", "x")
    appended("left")
    assert log.current_head() == 2
    assert not log.head().unsequenced


def test_empty_log_has_head_zero() -> None:
    assert log.current_head() == 0
    assert tail(0) == (0, [])


def test_missing_head_loses_neither_positions_nor_what_waits() -> None:
    publish_many([NewMessage("news", n) for n in range(5)])
    appended("left")
    LogHead.objects.all().delete()
    assert tail(4) == (6, [(5, "news", "message", "4"), (6, "news", "message", "left")])
    assert LogHead.objects.get().head == 6


def test_lost_connection_raises_error_of_django() -> None:
    """The isolation level is the first thing that a transaction sets; callers catch Django's errors."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no server that closes connections")
    connection.ensure_connection()
    connection.connection.pgconn.finish()
    try:
        with pytest.raises(OperationalError), log.own_transaction():
            raise AssertionError("There is no connection.")
    finally:
        connection.close()


# --- Reading ----------------------------------------------------------------------------------------------------------


def test_tail_brings_all_channels_from_the_cursor_in_pages() -> None:
    publish_many([NewMessage(f"channel.{n % 3}", n, event="alert") for n in range(600)])
    head, first = tail(0)
    assert (head, positions(first)) == (600, list(range(1, log.PAGE_MESSAGES + 1)))
    assert first[4] == StoredEvent(5, "channel.1", "alert", "4")
    _, second = tail(first[-1].position)
    _, third = tail(second[-1].position)
    assert positions(first + second + third) == list(range(1, 601))
    assert tail(600) == (600, [])
    assert tail(10_000) == (600, [])


def test_newest_goes_back_from_a_position() -> None:
    publish_many([NewMessage("news", n) for n in range(600)])
    assert positions(log.newest(600)) == list(range(600, 600 - log.PAGE_MESSAGES, -1))
    assert positions(log.newest(3)) == [3, 2, 1]


def test_page_brings_only_its_channels_in_log_order() -> None:
    publish_many([NewMessage("abc"[n % 3], n) for n in range(30)])
    assert positions(log.page(["a"], 0, 30).messages) == list(range(1, 31, 3))
    both = log.page(["c", "a"], 0, 30)
    assert positions(both.messages) == [n for n in range(1, 31) if n % 3 != 2]
    assert [message.channel for message in both.messages][:4] == ["a", "c", "a", "c"]
    assert (both.through, both.pruned) == (30, {})
    assert log.page(["nobody's"], 0, 30) == log.Page([], 30, {})
    assert log.page(["nobody's", "nor this"], 0, 30) == log.Page([], 30, {})


def test_reads_take_as_many_channels_as_a_stream_may_ask_for() -> None:
    channels = [f"c{number}" for number in range(500)]  # the largest MAX_CHANNELS_PER_STREAM
    publish_many([NewMessage(channels[number], "x") for number in (499, 0, 250)])
    assert [message.position for message in log.page(channels, 0, 3).messages] == [1, 2, 3]
    assert log.earliest(channels) == 1
    assert log.start_of_newest(channels, 2, 3) == 1


def test_page_keeps_within_its_bounds() -> None:
    publish_many([NewMessage("ab"[n % 2], n) for n in range(20)])
    for channels in (["a", "b"], ["b"]):
        page = log.page(channels, 5, 12)
        assert positions(page.messages) == [n for n in range(6, 13) if "ab"[(n - 1) % 2] in channels]
        assert page.through == 12


def test_full_page_says_how_far_it_reached() -> None:
    publish_many([NewMessage("ab"[n % 2], n) for n in range(3 * log.PAGE_MESSAGES)])
    for channels, step in ((["a"], 2), (["a", "b"], 1)):
        page = log.page(channels, 0, 3 * log.PAGE_MESSAGES)
        assert len(page.messages) == log.PAGE_MESSAGES
        assert page.through == page.messages[-1].position == (log.PAGE_MESSAGES - 1) * step + 1
    seen: list[int] = []
    cursor = 0
    while cursor < 3 * log.PAGE_MESSAGES:
        page = log.page(["a", "b"], cursor, 3 * log.PAGE_MESSAGES)
        seen += positions(page.messages)
        cursor = page.through
    assert seen == list(range(1, 3 * log.PAGE_MESSAGES + 1))


LARGE = "ü" * 100_000  # 200 kB in UTF-8: five of them are a page


def test_page_of_large_messages_is_bounded_by_their_bytes() -> None:
    publish_many([NewMessage("ab"[n % 2], f"{n} {LARGE if n % 10 == 0 else ''}") for n in range(150)])
    for channels in (["a", "b"], ["a"]):
        seen: list[StoredEvent] = []
        cursor = reads = 0
        while cursor < 150:
            page = log.page(channels, cursor, 150)
            assert sum(len(message.data.encode()) for message in page.messages) <= log.PAGE_BYTES
            cursor, reads, seen = page.through, reads + 1, seen + page.messages
        assert reads == 3  # fifteen large ones
        assert positions(seen) == [n for n in range(1, 151) if "ab"[(n - 1) % 2] in channels]
        assert all((LARGE in message.data) == ((message.position - 1) % 10 == 0) for message in seen)


def test_tail_and_newest_are_bounded_by_bytes() -> None:
    publish_many([NewMessage("news", LARGE) for _ in range(12)])
    assert positions(tail(0)[1]) == [1, 2, 3, 4, 5]
    assert positions(tail(10)[1]) == [11, 12]
    assert positions(log.newest(12)) == [12, 11, 10, 9, 8]


def test_message_larger_than_a_page_is_a_page_of_its_own(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "MAX_MESSAGE_BYTES": 10 * log.PAGE_BYTES}
    publish_many([NewMessage("news", "small"), NewMessage("news", 10 * LARGE), NewMessage("news", "small")])
    assert positions(log.page(["news"], 0, 3).messages) == [1]
    assert positions(log.page(["news"], 1, 3).messages) == [2]
    assert positions(log.page(["news"], 2, 3).messages) == [3]


def test_small_messages_of_a_page_cost_one_read() -> None:
    publish_many([NewMessage("news", "x" * reading.SMALL_BYTES) for _ in range(log.PAGE_MESSAGES)])
    with CaptureQueriesContext(connection) as queries:
        assert len(log.newest(log.PAGE_MESSAGES)) == log.PAGE_MESSAGES
    assert len(queries) == 1


def test_large_message_that_is_pruned_while_it_is_read_is_known_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    publish_many([NewMessage("news", LARGE), NewMessage("news", LARGE)])
    real = log.rows_of

    def rows_of(*args: Any, **kwargs: Any) -> list[tuple[Any, ...]]:
        rows = real(*args, **kwargs)
        log.delete_through(1, limit=1)
        return rows

    monkeypatch.setattr(reading, "rows_of", rows_of)
    page = log.page(["news"], 0, 2)
    assert (positions(page.messages), page.pruned) == ([2], {"news": 1})


def test_start_of_newest_is_the_cursor_for_the_last_few() -> None:
    publish_many([NewMessage("abc"[n % 3], n) for n in range(30)])
    for channels in (["a"], ["a", "b"], ["a", "b", "c"]):
        start = log.start_of_newest(channels, 4, 30)
        assert len(log.page(channels, start, 30).messages) == 4
    assert positions(log.page(["a"], log.start_of_newest(["a"], 2, 20), 20).messages) == [16, 19]
    assert log.start_of_newest(["a"], 1000, 30) == 0
    assert log.start_of_newest(["nobody's"], 5, 30) == 30


def test_earliest_is_the_oldest_that_is_left() -> None:
    publish_many([NewMessage("ab"[n % 2], n) for n in range(6)])
    assert log.earliest(["b"]) == 2
    assert log.earliest(["b", "a"]) == 1
    log.delete_through(3, limit=10)
    assert log.earliest(["a"]) == 5
    assert log.earliest(["nobody's"]) is None


# --- What pruning leaves behind ---------------------------------------------------------------------------------------


def test_deleting_takes_the_oldest_and_records_how_far_each_channel_was_pruned() -> None:
    publish_many([NewMessage("ab"[n % 2], n) for n in range(10)] + [NewMessage("quiet", "x")])
    assert log.delete_through(7, limit=3) == 3
    assert log.delete_through(7, limit=3) == 3
    assert log.delete_through(7, limit=3) == 1
    assert log.delete_through(7, limit=3) == 0
    assert dict(Channel.objects.values_list("name", "pruned_through")) == {"a": 7, "b": 6}
    assert positions(log.page(["a", "b", "quiet"], 0, 11).messages) == [8, 9, 10, 11]
    assert log.pruned(["a", "b", "quiet"], 0) == {"a": 7, "b": 6}
    assert log.pruned(["a", "b", "quiet"], 6) == {"a": 7}
    assert log.pruned(["a", "b", "quiet"], 7) == {}
    assert log.page(["b", "quiet"], 5, 11).pruned == {"b": 6}
    assert log.page(["quiet"], 0, 11).pruned == {}


def test_deleting_from_one_channel_leaves_the_others() -> None:
    publish_many([NewMessage("ab"[n % 2], n) for n in range(10)])
    assert log.delete_through(7, channel="a", limit=100) == 4
    assert positions(tail(0)[1]) == [2, 4, 6, 8, 9, 10]
    assert log.pruned(["a", "b"], 0) == {"a": 7}


def test_deleting_leaves_what_is_not_sequenced() -> None:
    publish("news", "x")
    appended("waiting")
    assert log.delete_through(100, limit=100) == 1
    assert tail(1) == (2, [(2, "news", "message", "waiting")])


def test_mark_of_what_was_pruned_never_goes_back() -> None:
    publish_many([NewMessage("news", n) for n in range(10)])
    log.delete_through(8, channel="news", limit=100)
    Message.objects.create(channel="news", data="restored", size=8, position=3)
    log.delete_through(5, limit=100)
    assert log.pruned(["news"], 6) == {"news": 8}


def test_forgotten_channels_raise_the_floor() -> None:
    publish_many([NewMessage(f"once.{n}", n) for n in range(10)] + [NewMessage("quiet", "x")])
    log.delete_through(10, limit=100)
    log.forget_pruned_channels(keep=4)
    assert set(Channel.objects.values_list("name", flat=True)) == {f"once.{n}" for n in range(6, 10)}
    assert log.head().floor == 6
    # Above the floor everything is still known exactly; at or below it, of no channel.
    assert log.pruned(["once.9", "quiet"], 6) == {"once.9": 10}
    assert log.pruned(["once.9", "once.0", "quiet"], 5) == {"once.9": 10, "once.0": 6, "quiet": 6}
    log.forget_pruned_channels(keep=4)
    assert log.head().floor == 6


def test_floor_never_goes_back() -> None:
    publish_many([NewMessage(f"once.{n}", n) for n in range(6)])
    log.delete_through(6, limit=100)
    log.forget_pruned_channels(keep=2)
    assert log.head().floor == 4
    Channel.objects.create(name="older", pruned_through=1)
    log.forget_pruned_channels(keep=2)
    assert log.head().floor == 4


def prune_one_time_channels(name: str = "once") -> None:
    """Ten channels that are pruned to their end, and whose records are forgotten."""
    channels = [f"{name}.{n}" for n in range(10)]
    first = log.current_head() + 1
    publish_many([NewMessage(channel, "x") for channel in channels])
    log.delete_through(log.current_head(), start=first, limit=100)
    log.forget_pruned_channels(keep=0)
    assert not Channel.objects.filter(name__startswith=f"{name}.").exists()
    assert log.head().floor == log.current_head()


def test_channel_that_lost_nothing_is_not_pruned_below_the_floor() -> None:
    publish("news", "1")
    prune_one_time_channels()
    publish("news", "12")
    assert log.head().floor == 11
    assert log.pruned(["news"], 1) == {}
    assert log.pruned(["news"], 5) == {}
    assert log.pruned(["news", "once.3", "empty"], 5) == {"once.3": 11, "empty": 11}
    assert log.page(["news"], 1, 12).pruned == {}
    # Its first message could have had others before it.
    assert log.pruned(["news"], 0) == {"news": 11}


def test_channel_with_messages_keeps_its_record() -> None:
    publish_many([NewMessage("news", n) for n in range(4)])
    log.delete_through(2, channel="news", limit=10)
    prune_one_time_channels()
    assert log.head().floor == 14
    assert log.pruned(["news"], 1) == {"news": 2}
    assert log.pruned(["news"], 2) == {}
    log.delete_through(4, channel="news", limit=10)
    log.forget_pruned_channels(keep=0)
    assert not Channel.objects.exists()
    assert log.pruned(["news"], 2) == {"news": 14}


def test_forgotten_channel_that_comes_back_has_lost_what_it_lost() -> None:
    prune_one_time_channels()
    publish("once.3", "again")
    prune_one_time_channels("other")
    assert log.head().floor == 21
    # Though it has a message below the floor, and no record.
    assert log.pruned(["once.3"], 2) == {"once.3": 21}
    publish("once.3", "and again")
    assert log.pruned(["once.3"], 22) == {}


@pytest.mark.parametrize("seed", range(4))
def test_pruned_is_never_silent_and_seldom_false(seed: int) -> None:
    """Random publishing, pruning and forgetting, held against what each channel has really lost."""
    chance = random.Random(seed)
    channels = [f"c{n}" for n in range(5)]
    lost = dict.fromkeys(channels, 0)
    for _ in range(40):
        match chance.choice(["publish", "publish", "prune", "prune one", "forget"]):
            case "publish":
                publish_many([NewMessage(chance.choice(channels), "x") for _ in range(chance.randint(1, 4))])
            case "forget":
                log.forget_pruned_channels(keep=chance.randint(0, 2))
            case kind:
                channel = None if kind == "prune" else chance.choice(channels)
                before = dict(Message.objects.values_list("position", "channel"))
                start = chance.choice([0, chance.randint(0, log.current_head())])
                log.delete_through(log.current_head(), start=start, channel=channel, limit=chance.randint(1, 9))
                left = set(Message.objects.values_list("position", flat=True))
                for place, name in before.items():
                    lost[name] = lost[name] if place in left else max(lost[name], place)
        recorded = set(Channel.objects.values_list("name", flat=True))
        for after in range(log.current_head() + 1):
            found = log.pruned(channels, after)
            reaching_back = set(Message.objects.filter(position__lte=after).values_list("channel", flat=True))
            for channel in channels:
                if lost[channel] > after:
                    assert found[channel] >= lost[channel], (channel, after)
                elif channel in recorded or channel in reaching_back:
                    assert channel not in found, (channel, after)


def test_channel_whose_message_waits_to_be_sequenced_is_not_forgotten() -> None:
    publish("news", "x")
    log.delete_through(1, limit=10)
    appended("waits")
    assert log.forget_pruned_channels(keep=0) == 0
    assert log.pruned(["news"], 0) == {"news": 1}


def test_forgetting_holds_the_heads_lock_only_to_raise_the_floor() -> None:
    """Publishers that find it taken leave the numbering to its holder."""
    publish_many([NewMessage(f"once.{n}", n) for n in range(20)])
    log.delete_through(20, limit=100)
    appended("left by a publisher")
    with CaptureQueriesContext(connection) as queries:
        assert log.forget_pruned_channels(keep=5) == 15
    assert not log.head().unsequenced
    statements = [query["sql"] for query in queries.captured_queries]
    [floor] = [index for index, sql in enumerate(statements) if "SET" in sql and '"floor"' in sql.split("WHERE")[0]]
    [deletion] = [index for index, sql in enumerate(statements) if sql.startswith("DELETE")]
    assert "COMMIT" in statements[floor:deletion]
    assert not any("streams_loghead" in sql for sql in statements[deletion:])


def test_forgetting_goes_in_bounded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "FOLDED_AT_ONCE", 7)
    monkeypatch.setattr(pruning, "BATCH_CHANNELS", 3)
    publish_many([NewMessage(f"once.{n}", n) for n in range(20)])
    log.delete_through(20, limit=100)
    assert [log.forget_pruned_channels(keep=5) for _ in range(4)] == [7, 7, 1, 0]
    assert log.head().floor == 15
    assert set(Channel.objects.values_list("pruned_through", flat=True)) == set(range(16, 21))


def test_nothing_is_forgotten_while_there_is_room() -> None:
    publish("news", "x")
    log.delete_through(1, limit=100)
    log.forget_pruned_channels()
    assert log.pruned(["news"], 0) == {"news": 1}
    assert log.head().floor == 0


# --- How the database reads -------------------------------------------------------------------------------------------

ROWS = 50_000


@pytest.fixture
def large_log() -> None:
    """50,000 messages on a hundred channels, every other of them on `busy`."""
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
    """How many rows PostgreSQL takes from the table for a statement, those that it throws away included."""
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
    """How SQLite goes about a statement."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {statement}")
        return "\n".join(row[3] for row in cursor.fetchall())


FEW = ["busy", "channel.1", "channel.2"]
MANY = ["busy", *(f"channel.{n}" for n in range(49))]


@pytest.mark.parametrize("channels", [["busy"], ["channel.7"], ["nobody's"], FEW, MANY], ids=len)
@pytest.mark.parametrize("after", [0, ROWS // 2, ROWS - 200])
def test_page_of_a_large_log_reads_little_more_than_it_returns(
    large_log: None, channels: list[str], after: int
) -> None:
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
        # Each part of the union may look one row ahead. The planner may go by the position and filter instead, where
        # that finds a page soon.
        assert rows_read(statement) <= 5 * log.PAGE_MESSAGES + len(channels)
    else:
        plan = query_plan(statement)
        assert "TEMP B-TREE" not in plan, plan
        assert "SCAN" not in plan, plan
        assert "streams_message_replay" in plan, plan


def test_other_reads_of_a_large_log_read_little(large_log: None) -> None:
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


def test_what_waits_is_sequenced_without_looking_through_the_log(large_log: None) -> None:
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
