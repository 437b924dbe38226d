"""Events are encoded so that our decoder and httpx-sse can read them back."""

from __future__ import annotations

import httpx
import pytest
from httpx_sse import EventSource
from hypothesis import example, given
from hypothesis import strategies as st

from streams.protocol import sse
from streams.protocol.sse import DecodedEvent
from tests.protocol.support import decode, decode_in_pieces, one_line, publishable


def test_fields_are_encoded_in_order() -> None:
    encoded = sse.encode("a\nb", event="add", id=7, retry=250)
    assert encoded == b"retry: 250\nevent: add\nid: 7\ndata: a\ndata: b\n\n"


def test_default_type_is_omitted() -> None:
    assert sse.encode("a") == b"data: a\n\n"


def test_empty_data_is_an_event() -> None:
    """An event without data is not dispatched."""
    assert decode(sse.encode("")) == [DecodedEvent("")]
    assert decode(sse.encode(None, id=3)) == []


def test_each_line_has_its_field() -> None:
    assert sse.encode("a\nb\n") == b"data: a\ndata: b\ndata: \n\n"


def test_data_like_fields_stays_data() -> None:
    looks = "x\n\nevent: evil\nid: 99\nretry: 1\n: comment\n\ndata: y"
    assert decode(sse.encode(looks, id=1)) == [DecodedEvent(looks, id="1")]


def test_checkpoint_moves_the_cursor() -> None:
    """It is an event with a type and with data."""
    assert sse.checkpoint(41) == b"event: stream-checkpoint\nid: 41\ndata: {}\n\n"
    assert decode_in_pieces([sse.checkpoint(41)])[1] == "41"


def test_heartbeat_changes_no_event() -> None:
    """It is one line, and can come between any two lines of an event."""
    assert sse.HEARTBEAT == b":\n"
    block = sse.encode("a\nb", event="add", id=7)
    lines = block.splitlines(keepends=True)
    for at in range(len(lines) + 1):
        beaten = b"".join([*lines[:at], sse.HEARTBEAT, *lines[at:]])
        assert decode(beaten) == decode(block), "a comment changes nothing, wherever it comes"


@given(data=publishable, event=one_line.filter(bool), id=st.integers(0, 10**18), cut=st.integers(0, 200))
@example(data="\ufeff", event=" ", id=0, cut=1)
@example(data="\n\n\n", event="message", id=1, cut=20)
@example(data="x" * 200_000, event="message", id=1, cut=100)
def test_encoded_event_is_decoded_again(data: str, event: str, id: int, cut: int) -> None:
    encoded = sse.encode(data, event=event, id=id)
    assert decode_in_pieces([encoded[:cut], encoded[cut:]])[0] == [DecodedEvent(data, event, str(id))]


@given(events=st.lists(st.tuples(publishable, one_line.filter(bool))))
def test_encoded_events_keep_their_order(events: list[tuple[str, str]]) -> None:
    stream = b"".join(sse.encode(data, event=event, id=at) for at, (data, event) in enumerate(events))
    decoded = decode(stream)
    assert [(event.data, event.event, event.id) for event in decoded] == [
        (data, event, str(at)) for at, (data, event) in enumerate(events)
    ]


# httpx-sse (seen in 0.4.3) differs from the standard:
# - It keeps a leading byte order mark, so that it does not know the first field's name.
# - It dispatches at every blank line after the first id, and for blocks with a type, an id or a retry but no data.
# - It accepts every retry that int() accepts, such as +1, 1_000 and digits of other scripts.
# The streams of this app are not affected: each block has data, heartbeats add no blank line, and the first line is a
# field.
def read_by_httpx_sse(stream: bytes) -> list[DecodedEvent]:
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream; charset=utf-8"}, content=stream)
    return [DecodedEvent(event.data, event.event, event.id) for event in EventSource(response).iter_sse()]


@pytest.mark.parametrize(
    "stream",
    [
        "data: YHOO\ndata: +2\ndata: 10\n\n",
        "data: first\nid: 1\n\ndata:second\nid\n\ndata:  third\n\n",
        "data\n\ndata\ndata\n\ndata:",
        "data:test\n\ndata: test\n\n",
        "event: add\rdata: a\r\rdata: b\r\n\r\ndata: c\n\n",
        "data: a\u2028b\u2029c\u0085d\x1ce\n\n",
        "id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n",
        ": comment\ndata: a\n: another\n\n",
        "data: a\n\ndata: unfinished\n",
        "data: \ufeffa\n\n",
    ],
)
def test_decoder_agrees_with_httpx_sse(stream: str) -> None:
    assert decode(stream) == read_by_httpx_sse(stream.encode())


@given(data=st.lists(publishable, max_size=5))
def test_httpx_sse_reads_encoded_events(data: list[str]) -> None:
    blocks = [sse.encode(text, event="add" if at % 2 else "message", id=at) for at, text in enumerate(data)]
    stream = b"retry: 3000\n" + sse.checkpoint(5) + sse.HEARTBEAT.join(blocks) + sse.HEARTBEAT + sse.checkpoint(9)
    assert read_by_httpx_sse(stream) == decode(stream)
    assert len(decode(stream)) == len(data) + 2


@given(
    rows=st.lists(st.tuples(st.integers(0, 10**18), st.just("news"), one_line.filter(bool), publishable, st.just(0)))
)
@example(rows=[(1, "news", "message", "one line", 0), (2, "news", "message", "a\nb", 0), (3, "news", "add", "c", 0)])
def test_rows_are_encoded_as_single_events(rows: list[tuple[int, str, str, str, int]]) -> None:
    singles = [sse.encode(data, event=event, id=position) for position, _, event, data, _ in rows]
    assert sse.encode_rows(rows) == singles
