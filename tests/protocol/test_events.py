"""What may be published, what is refused and with which words, and how data becomes text. No database."""

from __future__ import annotations

import datetime
import json
import uuid
from decimal import Decimal
from typing import Any

import pytest
from django.test import override_settings
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from hypothesis import given
from hypothesis import strategies as st

from streams import Event, NewMessage
from streams.exceptions import InvalidChannel, InvalidData, InvalidEventType, InvalidJSON, InvalidMessage, StreamsError
from streams.protocol import events
from streams.protocol.events import (
    check,
    encode_data,
    validate_channel,
    validate_channels,
    validate_event_type,
    validate_idempotency_key,
)
from streams.protocol.json_bodies import check_json
from streams.protocol.sse import DecodedEvent, EventStreamDecoder, StoredEvent

CHANNEL_RULE = "Channel names use A-Z a-z 0-9 . _ - and at most 99 characters; got {}."


def decode(stream: bytes) -> list[DecodedEvent]:
    return EventStreamDecoder().feed(stream)


def refusal_of(error: pytest.ExceptionInfo[BaseException]) -> str:
    return str(error.value)


# --- Channels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["a", "news", "user.7", "A-Z_0.9", "...", "-", "_", "0", "x" * 99])
def test_channel_within_the_rule_is_taken_as_it_is(channel: str) -> None:
    assert validate_channel(channel) == channel


@pytest.mark.parametrize(
    "channel",
    [
        "",
        " ",
        "news room",
        "news\n",
        "\nnews",
        "news\r",
        "news\0",
        "a/b",
        "a%2Fb",
        "a:b",
        "a*",
        "naïve",
        "n\N{CYRILLIC SMALL LETTER IE}ws",
        "news\N{ARABIC-INDIC DIGIT THREE}",
        "\N{FULLWIDTH LATIN SMALL LETTER N}ews",
        "news\N{ZERO WIDTH SPACE}",
        "a\N{ONE DOT LEADER}b",
        "a\N{HYPHEN}b",
        "a\N{FULLWIDTH LOW LINE}b",
        "\N{LATIN SMALL LETTER LONG S}",  # where case is ignored, it equals s
        "\N{KELVIN SIGN}",  # where case is ignored, it equals k
        "\ud800",
        "x" * 100,
        b"news",
        7,
        None,
        ["news"],
        lazystr("news"),
    ],
    ids=ascii,
)
def test_channel_outside_the_rule_is_refused_with_the_rule_and_the_value(channel: object) -> None:
    with pytest.raises(InvalidChannel) as error:
        validate_channel(channel)
    assert refusal_of(error) == CHANNEL_RULE.format(repr(channel))


def test_refusal_of_an_endless_name_is_short() -> None:
    with pytest.raises(InvalidChannel) as error:
        validate_channel("x" * 1_000_000)
    assert refusal_of(error) == CHANNEL_RULE.format("'" + "x" * 116 + "…")


@given(st.text(max_size=110))
def test_channels_are_exactly_the_names_of_the_rule(text: str) -> None:
    allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
    try:
        taken = validate_channel(text) == text
    except InvalidChannel:
        taken = False
    assert taken == (1 <= len(text) <= 99 and all(character in allowed for character in text))


def test_channels_are_taken_once_each_and_in_the_order_given() -> None:
    assert validate_channels(["b", "a", "b", "c", "a"]) == ("b", "a", "c")
    assert validate_channels(name for name in ("x", "y")) == ("x", "y")
    assert validate_channels([]) == ()


def test_one_bad_channel_refuses_them_all() -> None:
    with pytest.raises(InvalidChannel, match="got 'b c'"):
        validate_channels(["a", "b c"])


def test_a_single_name_in_place_of_a_list_is_refused_and_not_read_as_its_letters() -> None:
    with pytest.raises(InvalidChannel, match="'news'"):
        validate_channels("news")


# --- Types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["message", "a", "score changed", "é", "😀", "x" * 99, "streams", "Stream-x", "a:b"])
def test_event_type_within_the_rule_is_taken_as_it_is(event: str) -> None:
    assert validate_event_type(event) == event


LENGTH = "An event's type is a text of 1 to 99 characters (the default is 'message')"
ONE_LINE = "An event's type is one line without CR, LF and NUL"
RESERVED = "Types that begin with 'stream-' are the stream's own; choose another name"
SURROGATE = "An event's type is Unicode text, and a lone surrogate is none"


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        ("", LENGTH),
        ("x" * 100, LENGTH),
        (None, LENGTH),
        (b"message", LENGTH),
        ("a\nb", ONE_LINE),
        ("a\r", ONE_LINE),
        ("a\0", ONE_LINE),
        ("stream-", RESERVED),
        ("stream-reset", RESERVED),
        ("a\udc00", SURROGATE),
    ],
)
def test_event_type_outside_the_rule_is_refused_with_the_rule_and_the_value(event: object, rule: str) -> None:
    with pytest.raises(InvalidEventType) as error:
        validate_event_type(event)
    assert refusal_of(error) == f"{rule}; got {event!r}."


# --- Idempotency keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "a", " ", "é", "x" * 255, "line\nline"])
def test_idempotency_key_within_the_rule_is_taken_as_it_is(key: str | None) -> None:
    assert validate_idempotency_key(key) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "a\0", "\ud800", 7, b"a"])
def test_idempotency_key_outside_the_rule_is_refused(key: object) -> None:
    with pytest.raises(InvalidMessage) as error:
        validate_idempotency_key(key)
    shown = repr(key) if len(repr(key)) <= 120 else repr(key)[:117] + "…"
    assert refusal_of(error) == f"An idempotency key is a text of 1 to 255 characters without NUL; got {shown}."


# --- Data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "a", " a ", "a\n\nb", "\ufeff", "\u2028\u0085", "data: x\nid: 9", '{"a": 1}', "😀"]
)
def test_text_goes_out_as_it_is(text: str) -> None:
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
def test_anything_else_goes_out_as_compact_json(data: object, text: str) -> None:
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
def test_data_that_is_no_json_is_refused_with_its_reason(data: object, reason: str) -> None:
    with pytest.raises(InvalidData) as error:
        encode_data(data, max_bytes=None)
    assert refusal_of(error).startswith(JSON_RULE + reason)


def test_data_that_is_nested_too_deeply_is_refused() -> None:
    data = deep()
    with pytest.raises(InvalidData, match="got list: maximum recursion depth exceeded"):
        encode_data(data, max_bytes=None)


def test_nul_in_text_is_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidData) as error:
        encode_data("a\0b", max_bytes=None)
    assert refusal_of(error) == (
        "Data cannot hold NUL (U+0000): PostgreSQL cannot store it. Remove it, or send it as JSON."
    )


@pytest.mark.parametrize(("data", "at"), [("ab\ud83d", 2), ("\udfff", 0), (["\ud800"], 2)])
def test_lone_surrogate_is_refused_with_its_place_and_the_remedy(data: object, at: int) -> None:
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


def test_size_is_that_of_what_goes_out() -> None:
    """JSON is longer than what it was made of, and CRLF is shorter on the wire."""
    assert encode_data("\r\n" * 10, max_bytes=10) == "\n" * 10
    with pytest.raises(InvalidData, match="got 12"):
        encode_data(["x" * 8], max_bytes=10)


# --- A message as a whole ---------------------------------------------------------------------------------------------


def test_check_gives_the_message_with_its_data_as_text() -> None:
    user = object()
    message = NewMessage("news", {"a": 1}, "add", idempotency_key="k", published_by=user)
    assert check(message) == NewMessage("news", '{"a":1}', "add", idempotency_key="k", published_by=user)


def test_new_message_has_publishs_defaults() -> None:
    assert NewMessage("news", "a") == NewMessage(
        channel="news", data="a", event="message", idempotency_key=None, published_by=None
    )


@override_settings(STREAMS={"MAX_MESSAGE_BYTES": 3})
def test_check_reads_the_limit_live() -> None:
    assert check(NewMessage("news", "abc")).data == "abc"
    with pytest.raises(InvalidData, match="at most 3 bytes"):
        check(NewMessage("news", "abcd"))


def test_default_limit_is_256_kib() -> None:
    assert len(check(NewMessage("news", "x" * 262_144)).data) == 262_144
    with pytest.raises(InvalidData, match=r"at most 262144 bytes .* got 262145"):
        check(NewMessage("news", "x" * 262_145))


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (NewMessage("a b", "x"), InvalidChannel),
        (NewMessage("a", b"x"), InvalidData),
        (NewMessage("a", "x", "stream-x"), InvalidEventType),
        (NewMessage("a", "x", idempotency_key=""), InvalidMessage),
    ],
)
def test_each_refusal_is_an_invalid_message_and_a_value_error(message: NewMessage, error: type[Exception]) -> None:
    with pytest.raises(error) as info:
        check(message)
    assert isinstance(info.value, InvalidMessage)
    assert isinstance(info.value, ValueError)
    assert isinstance(info.value, StreamsError)


def test_stored_event_is_encoded_with_its_position_as_id() -> None:
    assert StoredEvent(41, "news", "message", "a\nb").encode() == b"id: 41\ndata: a\ndata: b\n\n"
    assert StoredEvent(42, "news", "add", "").encode() == b"event: add\nid: 42\ndata: \n\n"


# --- Event, what EventStreamResponse sends ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "encoded"),
    [
        (Event("a"), b"data: a\n\n"),
        (Event({"a": "é"}), 'data: {"a":"é"}\n\n'.encode()),
        (Event(None), b"data: null\n\n"),
        (Event("a", event=""), b"data: a\n\n"),
        (Event("a", id=0), b"id: 0\ndata: a\n\n"),
        (Event("a", id=""), b"id: \ndata: a\n\n"),
        (Event("a", id="é 7"), "id: é 7\ndata: a\n\n".encode()),
        (Event("a", retry=0), b"retry: 0\ndata: a\n\n"),
        (Event("a\r\nb", "add", 7, 250), b"retry: 250\nevent: add\nid: 7\ndata: a\ndata: b\n\n"),
        (Event("a", event="stream-checkpoint"), b"event: stream-checkpoint\ndata: a\n\n"),
    ],
)
def test_event_is_encoded_by_its_fields(event: Event, encoded: bytes) -> None:
    assert event.encode() == encoded


def test_event_may_carry_nul_for_it_is_never_stored() -> None:
    assert decode(Event("a\0b").encode()) == [DecodedEvent("a\0b")]


def test_event_is_not_bounded_by_the_logs_limit() -> None:
    assert decode(Event("x" * 300_000).encode()) == [DecodedEvent("x" * 300_000)]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event("a", event="a\nb"), r"An event's type is one line; got 'a\nb'."),
        (Event("a", event="a\r"), r"An event's type is one line; got 'a\r'."),
        (Event("a", id="1\n2"), r"An event's id is one line without NUL; got '1\n2'."),
        (Event("a", id="1\r"), r"An event's id is one line without NUL; got '1\r'."),
        (Event("a", id="1\0"), r"An event's id is one line without NUL; got '1\x00'."),
        (Event("a", retry=-1), "An event's retry is a whole number of milliseconds; got -1."),
        (Event("a", retry="3"), "An event's retry is a whole number of milliseconds; got '3'."),  # type: ignore[arg-type]
        (Event("a", retry=1.5), "An event's retry is a whole number of milliseconds; got 1.5."),  # type: ignore[arg-type]
        (Event("a", retry=True), "An event's retry is a whole number of milliseconds; got True."),
    ],
)
def test_event_that_cannot_be_carried_is_refused(event: Event, text: str) -> None:
    with pytest.raises(InvalidMessage) as error:
        event.encode()
    assert refusal_of(error) == text


@pytest.mark.parametrize(
    "event",
    [
        Event("a\ud800"),
        Event("a", event="a\ud800"),
        Event("a", id="\udc00"),
        Event({"a": b""}),
        Event("a", event=None),  # type: ignore[arg-type]
        Event("a", id=b"1"),  # type: ignore[arg-type]
    ],
    ids=["data", "type", "id", "json", "no type", "bytes as id"],
)
def test_no_field_of_an_event_fails_with_anything_but_invalid_message(event: Event) -> None:
    with pytest.raises(InvalidMessage):
        event.encode()


@given(
    data=st.text() | st.none() | st.dictionaries(st.text(), st.integers()),
    event=st.text(max_size=5),
    id=st.none() | st.text(max_size=5) | st.integers(0),
    retry=st.none() | st.integers(0, 10**9),
)
def test_every_event_is_carried_or_refused(data: Any, event: str, id: Any, retry: int | None) -> None:
    try:
        encoded = Event(data, event, id, retry).encode()
    except InvalidMessage:
        return
    [decoded] = decode(encoded)
    text = data.replace("\r\n", "\n").replace("\r", "\n") if isinstance(data, str) else None
    assert decoded.data == text if text is not None else json.loads(decoded.data) == data
    assert decoded.event == (event or "message")
    assert decoded.id == ("" if id is None else str(id))


def test_limits_are_those_of_the_columns() -> None:
    from streams.models import Channel, Message

    fields = {field.name: field.max_length for field in Message._meta.fields if field.max_length}  # type: ignore[attr-defined]
    assert fields["channel"] == events.CHANNEL_MAX_LENGTH == Channel._meta.get_field("name").max_length
    assert fields["event"] == events.EVENT_TYPE_MAX_LENGTH
    assert fields["idempotency_key"] == events.IDEMPOTENCY_KEY_MAX_LENGTH


# --- JSON that somebody has written -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["{}", " [1.10, 1e999, -0]\n", '"NaN"', "null", '{"a": 1, "a": 2}', '"\\ud800"', "9" * 9999]
)
def test_json_is_json_as_browsers_read_it(text: str) -> None:
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
def test_what_is_no_json_is_told_with_its_place(text: str, line: int | None, column: int | None) -> None:
    with pytest.raises(InvalidJSON) as caught:
        check_json(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert str(caught.value).startswith("This is not JSON: ")
    assert (f"in line {line}, column {column}." in str(caught.value)) == (line is not None)
