"""survey.py on its own: names, counts and types, on rows in a real database."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from streams import NewMessage, publish_many, survey
from streams.models import ChannelSettings, Message
from streams.survey import Summary

pytestmark = pytest.mark.django_db(transaction=True)


def publish_to(*channels: str, event: str = "message") -> None:
    publish_many([NewMessage(channel, "x", event=event) for channel in channels])


# --- Names ------------------------------------------------------------------------------------------------------------


def test_names_come_page_by_page_each_once() -> None:
    names = {f"room.{n}" for n in range(25)} | {"Zebra", "ant", "_x", "-y", "0"}
    publish_to(*names, *names)
    found: list[str] = []
    while page := survey.channel_names(after=found[-1] if found else "", limit=7):
        assert len(page) <= 7
        found += page
    assert len(found) == len(names)
    assert set(found) == names


def test_names_by_their_beginning_in_which_case_counts() -> None:
    publish_to("user.1", "user.10", "User.1", "users", "news", "a_b", "axb")
    assert set(survey.channel_names(prefix="user.", limit=10)) == {"user.1", "user.10"}
    assert survey.channel_names(prefix="a_", limit=10) == ["a_b"]
    assert survey.channel_names(prefix="none", limit=10) == []
    assert len(survey.channel_names(prefix="user", limit=2)) == 2


def test_names_start_where_they_are_asked_to() -> None:
    publish_to("a", "b", "b.1", "c")
    ChannelSettings.objects.create(channel="b.2")
    assert survey.channel_names(start="b", limit=10) == ["b", "b.1", "c"]
    assert survey.known_names([], start="b.1", limit=10) == ["b.1", "b.2", "c"]
    assert survey.known_names([], start="b", after="b.1", limit=10) == ["b.2", "c"]


def test_search_by_a_beginning_looks_through_no_more_names_than_it_is_told() -> None:
    publish_to(*(f"room.{n:03}" for n in range(50)))
    assert len(survey.channel_names(prefix="room.", limit=50, most=20)) == 20


def test_names_cost_by_their_number_and_not_by_the_messages() -> None:
    publish_to(*["busy"] * 2000, "quiet")
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert survey.channel_names(limit=10) == ["busy", "quiet"]
    assert len(queries) == 1


def test_names_from_elsewhere_are_put_into_the_databases_order() -> None:
    names = ["b", "B", "a.1", "a-1", "a_1", "A", "0"]
    publish_to(*names)
    in_order = survey.channel_names(limit=10)
    assert survey.names_in_order([*reversed(names), "b"], limit=10) == in_order
    assert survey.names_in_order(names, after=in_order[2], limit=2) == in_order[3:5]
    assert survey.names_in_order([], limit=10) == []


# --- What a channel holds ---------------------------------------------------------------------------------------------


def test_summaries_count_to_a_limit_in_one_query() -> None:
    publish_to("a", "b", "a", "a")
    Message.objects.create(channel="b", data="waits for its position", size=22)
    with CaptureQueriesContext(connection) as queries:
        found = survey.summaries(["a", "b", "none"], count_to=2)
    assert found == {"a": Summary(4, 2), "b": Summary(2, 1), "none": Summary(None, 0)}
    assert len(queries) == 1
    assert survey.summaries([], count_to=2) == {}


def test_types_of_the_newest_are_each_channels_own() -> None:
    publish_to("a", event="old")
    publish_to("a", "b", event="alert")
    publish_to("a", "a", "c", event="news")
    assert survey.types_of_newest(["a"], 2) == {"news"}
    with CaptureQueriesContext(connection) as queries:
        assert survey.types_of_newest(["a", "b", "none"], 3) == {"news", "alert"}
    assert len(queries) == 1
    assert survey.types_of_newest(["none"], 3) == set()
    assert survey.types_of_newest([], 3) == set()


def test_first_of_types_says_how_far_it_holds() -> None:
    publish_to("a", event="one")
    publish_to("b", event="not of a")
    publish_to("a", "a", event="two")
    publish_to("a", event="three")
    assert survey.first_of_types(["a"], 0, 10) == ({"one": 1, "two": 3, "three": 5}, 5)
    assert survey.first_of_types(["a"], 0, 2) == ({"one": 1, "two": 3}, 3)
    assert survey.first_of_types(["a"], 3, 10) == ({"two": 4, "three": 5}, 5)
    assert survey.first_of_types(["a", "b"], 1, 10) == ({"not of a": 2, "two": 3, "three": 5}, 5)
    assert survey.first_of_types(["a"], 5, 10) == ({}, 5)
