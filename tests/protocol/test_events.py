"""NewMessage, StoredEvent and Event are checked and encoded, without a database."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from streams import Event, NewMessage
from streams.exceptions import InvalidChannel, InvalidData, InvalidEventType, InvalidMessage, StreamsError
from streams.protocol.events import (
    check,
)
from streams.protocol.sse import DecodedEvent, StoredEvent
from tests.protocol.support import decode, refusal_of


def test_check_encodes_the_data() -> None:
    user = object()
    message = NewMessage("news", {"a": 1}, "add", idempotency_key="k", published_by=user)
    assert check(message) == NewMessage("news", '{"a":1}', "add", idempotency_key="k", published_by=user)


def test_new_message_has_defaults_of_publish() -> None:
    assert NewMessage("news", "a") == NewMessage(
        channel="news", data="a", event="message", idempotency_key=None, published_by=None
    )


@override_settings(STREAMS={"MAX_MESSAGE_BYTES": 3})
def test_size_limit_is_read_live() -> None:
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
def test_errors_share_their_base_classes(message: NewMessage, error: type[Exception]) -> None:
    with pytest.raises(error) as info:
        check(message)
    assert isinstance(info.value, InvalidMessage)
    assert isinstance(info.value, ValueError)
    assert isinstance(info.value, StreamsError)


def test_stored_event_has_position_as_id() -> None:
    assert StoredEvent(41, "news", "message", "a\nb").encode() == b"id: 41\ndata: a\ndata: b\n\n"
    assert StoredEvent(42, "news", "add", "").encode() == b"event: add\nid: 42\ndata: \n\n"


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
def test_event_fields_are_encoded(event: Event, encoded: bytes) -> None:
    assert event.encode() == encoded


def test_event_can_hold_nul() -> None:
    """PostgreSQL cannot store NUL, but an Event is never stored."""
    assert decode(Event("a\0b").encode()) == [DecodedEvent("a\0b")]


def test_event_ignores_the_size_limit() -> None:
    """The limit is for messages of the log."""
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
def test_unencodable_event_is_refused(event: Event, text: str) -> None:
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
def test_any_bad_field_raises_invalid_message(event: Event) -> None:
    with pytest.raises(InvalidMessage):
        event.encode()


@given(
    data=st.text() | st.none() | st.dictionaries(st.text(), st.integers()),
    event=st.text(max_size=5),
    id=st.none() | st.text(max_size=5) | st.integers(0),
    retry=st.none() | st.integers(0, 10**9),
)
def test_any_event_is_encoded_or_refused(data: Any, event: str, id: Any, retry: int | None) -> None:
    try:
        encoded = Event(data, event, id, retry).encode()
    except InvalidMessage:
        return
    [decoded] = decode(encoded)
    text = data.replace("\r\n", "\n").replace("\r", "\n") if isinstance(data, str) else None
    assert decoded.data == text if text is not None else json.loads(decoded.data) == data
    assert decoded.event == (event or "message")
    assert decoded.id == ("" if id is None else str(id))
