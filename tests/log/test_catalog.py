"""catalog.py: the names of channels, their message counts and their event types."""

from __future__ import annotations

import re

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from streams import NewMessage, publish_many
from streams.log import catalog
from streams.log.catalog import Summary
from streams.models import ChannelSettings, Message

pytestmark = pytest.mark.django_db(transaction=True)


def publish_to(*channels: str, event: str = "message") -> None:
    publish_many([NewMessage(channel, "x", event=event) for channel in channels])


# --- Names ------------------------------------------------------------------------------------------------------------


def test_names_come_page_by_page_each_once() -> None:
    names = {f"room.{n}" for n in range(25)} | {"Zebra", "ant", "_x", "-y", "0"}
    publish_to(*names, *names)
    found: list[str] = []
    while page := catalog.channel_names(after=found[-1] if found else "", limit=7):
        assert len(page) <= 7
        found += page
    assert len(found) == len(names)
    assert set(found) == names


def test_names_with_a_prefix_are_case_sensitive() -> None:
    publish_to("user.1", "user.10", "user.z", "User.1", "users", "user", "news", "a_b", "axb")
    assert catalog.channel_names(prefix="user.", limit=10) == ["user.1", "user.10", "user.z"]
    assert catalog.channel_names(prefix="a_", limit=10) == ["a_b"]
    assert catalog.channel_names(prefix="none", limit=10) == []
    assert catalog.channel_names(prefix="user", limit=2) == ["user", "user.1"]
    assert catalog.channel_names(prefix="user.", after="user.1", limit=1) == ["user.10"]
    assert catalog.channel_names(prefix="user.", after="news", limit=1) == ["user.1"]
    assert catalog.channel_names(prefix="user.", after="users", limit=10) == []


def test_known_names_join_log_settings_and_subscribers() -> None:
    publish_to("a", "b", "b.1", "c")
    ChannelSettings.objects.create(channel="b.2")
    ChannelSettings.objects.create(channel="B.3")
    assert catalog.known_names(["b.10", "d"], prefix="b.", limit=10) == ["b.1", "b.10", "b.2"]
    assert catalog.known_names(["b.10", "d"], prefix="b.", after="b.1", limit=1) == ["b.10"]
    assert catalog.known_names(["b.10", "d"], after="b.10", limit=10) == ["b.2", "c", "d"]


def test_names_are_in_the_order_of_bytes() -> None:
    names = ["b", "B", "a.1", "a-1", "a_1", "A", "0"]
    publish_to(*names)
    for name in names:
        ChannelSettings.objects.create(channel=name)
    assert catalog.channel_names(limit=10) == sorted(names)
    assert catalog.known_names([], limit=10) == sorted(names)


def plan(sql: str) -> str:
    """Return the database's plan for a query. PostgreSQL shows the complete plan only if it runs the query.

    Without the two settings, PostgreSQL would scan such a small table sequentially.
    """
    if connection.vendor != "postgresql":
        with connection.cursor() as cursor:
            return "\n".join(row[-1] for row in cursor.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall())
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")
        cursor.execute(f"EXPLAIN (ANALYZE) {sql}")
        return "\n".join(row[-1] for row in cursor.fetchall())


def test_prefix_is_a_range_of_the_index() -> None:
    """Both ends of the range are index conditions, in the log's table and in the table of channel settings.

    If the collation of a column were not binary, the range would not be the names with the prefix.
    """
    publish_to(*(f"room.{n}" for n in range(20)))
    with CaptureQueriesContext(connection) as queries:
        catalog.known_names([], prefix="room.", limit=5)
    log_plan, settings_plan = (plan(query["sql"]) for query in queries)
    if connection.vendor == "postgresql":
        bounded = r"using streams_message_replay on streams_message.*\n.*Index Cond: .*channel >=? .*channel <"
        assert len(re.findall(bounded, log_plan)) == 2, log_plan
        assert re.search(r"Index Cond: .*channel >= .*channel <", settings_plan), settings_plan
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT attrelid::regclass::text, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid "
                "WHERE relkind = 'r' AND attcollation = 'pg_catalog.\"C\"'::regcollation AND relname LIKE 'streams_%'"
            )
            assert sorted(cursor.fetchall()) == [
                ("streams_channel", "name"),
                ("streams_channelsettings", "channel"),
                ("streams_channelsettings_groups", "channelsettings_id"),
                ("streams_message", "channel"),
            ]
    else:
        bounded = r"SEARCH streams_message USING COVERING INDEX streams_message_replay \(channel>\? AND channel<\?\)"
        assert len(re.findall(bounded, log_plan)) == 2, log_plan
        assert re.search(
            r"SEARCH streams_channelsettings USING .*INDEX .* \(channel>\? AND channel<\?\)", settings_plan
        )


def test_names_cost_by_their_number_and_not_by_the_messages() -> None:
    publish_to(*["busy"] * 2000, "quiet")
    with CaptureQueriesContext(connection) as queries:
        assert catalog.channel_names(limit=10) == ["busy", "quiet"]
    assert len(queries) == 1


# --- Counts and types -------------------------------------------------------------------------------------------------


def test_summaries_count_to_a_limit_in_one_query() -> None:
    publish_to("a", "b", "a", "a")
    Message.objects.create(channel="b", data="waits for its position", size=22)
    with CaptureQueriesContext(connection) as queries:
        found = catalog.summaries(["a", "b", "none"], count_to=2)
    assert found == {"a": Summary(4, 2), "b": Summary(2, 1), "none": Summary(None, 0)}
    assert len(queries) == 1
    assert catalog.summaries([], count_to=2) == {}


def test_types_of_the_newest_are_each_channels_own() -> None:
    publish_to("a", event="old")
    publish_to("a", "b", event="alert")
    publish_to("a", "a", "c", event="news")
    assert catalog.types_of_newest(["a"], 2) == {"news"}
    with CaptureQueriesContext(connection) as queries:
        assert catalog.types_of_newest(["a", "b", "none"], 3) == {"news", "alert"}
    assert len(queries) == 1
    assert catalog.types_of_newest(["none"], 3) == set()
    assert catalog.types_of_newest([], 3) == set()


def test_first_of_types_says_how_far_it_holds() -> None:
    publish_to("a", event="one")
    publish_to("b", event="not of a")
    publish_to("a", "a", event="two")
    publish_to("a", event="three")
    assert catalog.first_of_types(["a"], 0, 10) == ({"one": 1, "two": 3, "three": 5}, 5)
    assert catalog.first_of_types(["a"], 0, 2) == ({"one": 1, "two": 3}, 3)
    assert catalog.first_of_types(["a"], 3, 10) == ({"two": 4, "three": 5}, 5)
    assert catalog.first_of_types(["a", "b"], 1, 10) == ({"not of a": 2, "two": 3, "three": 5}, 5)
    assert catalog.first_of_types(["a"], 5, 10) == ({}, 5)
