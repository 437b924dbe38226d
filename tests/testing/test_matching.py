"""Which messages an assertion matches."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any
from unittest.mock import ANY

import pytest

from streams import publish
from streams.testing import assert_published, published


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"b": 1, "a": [1, 2]}, {"a": [1, 2], "b": 1}),
        ("a\r\nb", "a\nb"),
        ("a\r\nb", "a\r\nb"),
        (None, None),
        (7, 7),
        ({"at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)}, {"at": "2026-01-01T00:00:00Z"}),
        ({"price": Decimal("9.90")}, {"price": Decimal("9.90")}),
        ({"id": 5, "x": 1}, {"id": ANY, "x": 1}),
        ({"total": 9}, lambda data: data["total"] > 5),
        ("plain", lambda data: data == "plain"),
        ("plain", ANY),
    ],
)
def test_data_matches(db: None, data: Any, expected: Any) -> None:
    publish("news", data)
    assert len(published("news", expected)) == 1


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": 1}, {"a": 2}),
        ("17", "18"),
        ('{"a": 1}', '{"a":1}'),
        (None, "none"),
        ({"total": 4}, lambda data: data["total"] > 5),
        ({"id": 5, "x": 1}, {"id": ANY, "x": 2}),
    ],
)
def test_data_differs(db: None, data: Any, expected: Any) -> None:
    publish("news", data)
    assert published("news", expected) == []


@pytest.mark.parametrize(
    ("data", "part", "matches"),
    [
        ({"order": {"id": 1, "state": "paid"}, "x": 1}, {"order": {"state": "paid"}}, True),
        ({"order": {"id": 1, "state": "paid"}}, {"order": {"state": "open"}}, False),
        ({"order": {"id": 1}}, {"order": {"state": ANY}}, False),
        ({"order": {"id": 1}}, {"order": {"id": ANY}}, True),
        ({"at": datetime.date(2026, 1, 1), "n": 1}, {"at": datetime.date(2026, 1, 1)}, True),
        ({1: "a"}, {1: "a"}, True),
        (["a"], {"a": 1}, False),
        ("<turbo-stream target='x'>", "target='x'", True),
        ("<turbo-stream target='x'>", "target='y'", False),
    ],
)
def test_contains(db: None, data: Any, part: Any, matches: bool) -> None:
    publish("news", data)
    assert bool(published("news", contains=part)) is matches


def test_channel_can_be_a_pattern(db: None) -> None:
    publish("order.1", "a")
    publish("order.2", "b")
    publish("news", "c")
    assert [message.data for message in published("order.*")] == ["a", "b"]


def test_arguments_are_checked(db: None) -> None:
    with pytest.raises(ValueError, match="got 'the news'"):
        assert_published("the news")
    with pytest.raises(ValueError, match="leave out data, contains and count"):
        assert_published("news", sequence=["a"], count=1)
    with pytest.raises(ValueError, match="`contains` is a dict or a text; got 7"):
        assert_published("news", contains=7)


def test_long_lists_and_data_are_shortened(db: None) -> None:
    for _ in range(23):
        publish("news", "x" * 1000)
    with pytest.raises(AssertionError) as raised:
        assert_published("orders").so_far()
    lines = str(raised.value).splitlines()
    assert lines[-1] == "  … and 3 more"
    assert max(map(len, lines)) < 250


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_assertion_without_a_block_warns() -> None:
    with pytest.warns(RuntimeWarning, match="was never checked"):
        assert_published("news")
