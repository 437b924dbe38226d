"""Encoding data as text, refusing invalid data, and checking JSON from clients, without a database."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from typing import Any

import pytest
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe

from streams.exceptions import InvalidData, InvalidJSON
from streams.protocol.events import (
    encode_data,
)
from streams.protocol.json_bodies import check_json
from streams.protocol.sse import DecodedEvent
from tests.protocol.support import refusal_of


@pytest.mark.parametrize(
    "text", ["", "a", " a ", "a\n\nb", "\ufeff", "\u2028\u0085", "data: x\nid: 9", '{"a": 1}', "😀"]
)
def test_text_is_unchanged(text: str) -> None:
    assert encode_data(text, max_bytes=None) == text


def test_cr_and_crlf_become_lf() -> None:
    assert encode_data("a\rb\r\nc\n\rd", max_bytes=None) == "a\nb\nc\n\nd"


def test_safe_text_is_text() -> None:
    assert encode_data(mark_safe("<b>"), max_bytes=None) == "<b>"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0, "0"),
        (1.5, "1.5"),
        ([], "[]"),
        ((1, 2), "[1,2]"),
        ({"title": "Grüße 😀"}, '{"title":"Grüße 😀"}'),
        ({1: None}, '{"1":null}'),
        ({"line": "a\r\nb"}, '{"line":"a\\r\\nb"}'),
        ({"nul": "\0"}, '{"nul":"\\u0000"}'),
        (datetime.datetime(2026, 11, 22, 20, 15, 1, 999_999, tzinfo=datetime.UTC), '"2026-11-22T20:15:01.999Z"'),
        (datetime.datetime(2026, 11, 22, 20, 15), '"2026-11-22T20:15:00"'),
        (datetime.date(2026, 11, 22), '"2026-11-22"'),
        (datetime.time(20, 15), '"20:15:00"'),
        (datetime.timedelta(days=1, seconds=2), '"P1DT00H00M02S"'),
        (Decimal("0.10"), '"0.10"'),
        (uuid.UUID(int=7), '"00000000-0000-0000-0000-000000000007"'),
        (lazystr("later"), '"later"'),
    ],
)
def test_other_data_becomes_compact_json(data: object, text: str) -> None:
    assert encode_data(data, max_bytes=None) == text


def circular() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


JSON_RULE = "Data is a str, or what DjangoJSONEncoder can make JSON of; got "


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"bytes", "bytes: Object of type bytes is not JSON serializable"),
        ({1, 2}, "set: Object of type set is not JSON serializable"),
        (object, "type: Object of type type is not JSON serializable"),
        ({"a": {"b": b""}}, "dict: Object of type bytes is not JSON serializable"),
        ({(1, 2): 3}, "dict: keys must be str, int, float, bool or None, not tuple"),
        (float("nan"), "float: Out of range float values are not JSON compliant"),
        ([float("inf")], "list: Out of range float values are not JSON compliant"),
        ({"a": float("-inf")}, "dict: Out of range float values are not JSON compliant"),
        (circular(), "list: Circular reference detected"),
        (datetime.time(20, 15, tzinfo=datetime.UTC), "time: JSON can't represent timezone-aware times."),
        (DecodedEvent, "type: Object of type type is not JSON serializable"),
    ],
    ids=["bytes", "set", "object", "nested", "key", "nan", "inf", "-inf", "circular", "aware-time", "class"],
)
def test_unserializable_data_is_refused(data: object, reason: str) -> None:
    """The error holds the encoder's reason."""
    with pytest.raises(InvalidData) as error:
        encode_data(data, max_bytes=None)
    assert refusal_of(error).startswith(JSON_RULE + reason)


def test_deeply_nested_data_is_refused() -> None:
    data = deep()
    with pytest.raises(InvalidData, match="got list: maximum recursion depth exceeded"):
        encode_data(data, max_bytes=None)


def test_nul_in_text_is_refused() -> None:
    with pytest.raises(InvalidData) as error:
        encode_data("a\0b", max_bytes=None)
    assert refusal_of(error) == (
        "Data cannot hold NUL (U+0000): PostgreSQL cannot store it. Remove it, or send it as JSON."
    )


@pytest.mark.parametrize(("data", "at"), [("ab\ud83d", 2), ("\udfff", 0), (["\ud800"], 2)])
def test_lone_surrogate_is_refused(data: object, at: int) -> None:
    """The error holds its place and the remedy."""
    with pytest.raises(InvalidData) as error:
        encode_data(data, max_bytes=None)
    surrogate = next(character for character in str(data if isinstance(data, str) else data[0]) if character > "\ud7ff")  # type: ignore[index]
    assert refusal_of(error) == (
        f"Data is Unicode text; it has a lone surrogate (U+{ord(surrogate):04X}) at character {at}, which UTF-8 cannot "
        "carry. Decode the source with errors='replace'."
    )


def test_size_is_counted_in_utf_8() -> None:
    assert encode_data("é" * 5, max_bytes=10) == "é" * 5
    with pytest.raises(InvalidData) as error:
        encode_data("é" * 5 + "x", max_bytes=10)
    assert refusal_of(error) == (
        "Data is at most 10 bytes in UTF-8 (STREAMS['MAX_MESSAGE_BYTES']); got 11. "
        "Publish a reference to the large thing, or raise the setting."
    )


def test_size_is_counted_after_encoding() -> None:
    """JSON is longer than the data it was made from, and CRLF becomes one character."""
    assert encode_data("\r\n" * 10, max_bytes=10) == "\n" * 10
    with pytest.raises(InvalidData, match="got 12"):
        encode_data(["x" * 8], max_bytes=10)


@pytest.mark.parametrize(
    "text", ["{}", " [1.10, 1e999, -0]\n", '"NaN"', "null", '{"a": 1, "a": 2}', '"\\ud800"', "9" * 9999]
)
def test_valid_json_is_accepted(text: str) -> None:
    """The rules are those of browsers."""
    check_json(text)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, 1),
        ("{'a': 1}", 1, 2),
        ('{\n "a": 1,\n 2}', 3, 2),
        ('["x\n"]', 1, 4),
        ("[1] [2]", 1, 5),
        ("NaN", 1, 1),
        ('["NaN",\n  -Infinity]', 2, 3),
        ('["a\\"NaN", Infinity]', 1, 12),
        ("\ufeff{}", 1, 1),
        ("[" * 100_000, None, None),
    ],
    ids=["empty", "quotes", "comma", "newline", "two", "nan", "infinity", "escaped", "bom", "deep"],
)
def test_invalid_json_is_refused(text: str, line: int | None, column: int | None) -> None:
    """The error holds the line and the column."""
    with pytest.raises(InvalidJSON) as caught:
        check_json(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert str(caught.value).startswith("This is not JSON: ")
    assert (f"in line {line}, column {column}." in str(caught.value)) == (line is not None)
