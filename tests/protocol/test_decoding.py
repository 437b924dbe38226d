"""The wire format against the text of the HTML standard: 9.2.5 (parsing) and 9.2.6 (interpreting a stream)."""

from __future__ import annotations

import re
from collections.abc import Iterable

import httpx
import pytest
from httpx_sse import EventSource
from hypothesis import example, given
from hypothesis import strategies as st

from streams.protocol import sse
from streams.protocol.sse import DecodedEvent, EventStreamDecoder


def decode(stream: bytes | str) -> list[DecodedEvent]:
    return EventStreamDecoder().feed(stream.encode() if isinstance(stream, str) else stream)


def decode_in_pieces(pieces: Iterable[bytes]) -> tuple[list[DecodedEvent], str, int | None]:
    decoder = EventStreamDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events, decoder.last_event_id, decoder.retry_milliseconds


# --- The examples of section 9.2.6, in the order of the text ----------------------------------------------------------


def test_example_one_message_of_three_lines() -> None:
    assert decode("data: YHOO\ndata: +2\ndata: 10\n\n") == [DecodedEvent("YHOO\n+2\n10")]


def test_example_comment_then_id_then_empty_id_then_leading_space() -> None:
    """Four blocks: a comment alone; an event with an id; one that resets the id; one whose data begins with a space."""
    decoder = EventStreamDecoder()
    assert decoder.feed(b": test stream\n\n") == []
    assert decoder.feed(b"data: first event\nid: 1\n\n") == [DecodedEvent("first event", id="1")]
    assert decoder.last_event_id == "1"
    assert decoder.feed(b"data:second event\nid\n\n") == [DecodedEvent("second event", id="")]
    assert decoder.last_event_id == "", "an id field without a value: no Last-Event-ID is sent any more"
    assert decoder.feed(b"data:  third event\n\n") == [DecodedEvent(" third event")]


def test_example_unfinished_last_block_is_discarded() -> None:
    """Two events, of an empty line and of two; the third block has no blank line after it."""
    assert decode("data\n\ndata\ndata\n\ndata:") == [DecodedEvent(""), DecodedEvent("\n")]


def test_example_space_after_the_colon_is_optional() -> None:
    assert decode("data:test\n\ndata: test\n\n") == [DecodedEvent("test"), DecodedEvent("test")]


def test_example_of_the_introduction_three_messages() -> None:
    """Section 9.2.1: three messages, the second of two lines."""
    stream = (
        "data: This is the first message.\n\n"
        "data: This is the second message, it\ndata: has two lines.\n\n"
        "data: This is the third message.\n\n"
    )
    assert [event.data for event in decode(stream)] == [
        "This is the first message.",
        "This is the second message, it\nhas two lines.",
        "This is the third message.",
    ]


def test_example_of_the_introduction_event_types() -> None:
    """Section 9.2.1: two types, add and remove."""
    stream = "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n"
    assert decode(stream) == [
        DecodedEvent("73857293", "add"),
        DecodedEvent("2153", "remove"),
        DecodedEvent("113411", "add"),
    ]


# --- Lines (section 9.2.5) --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_each_of_the_three_line_ends_ends_a_line(end: str) -> None:
    assert decode(end.join(["event: add", "id: 7", "data: a", "data: b", "", ""])) == [DecodedEvent("a\nb", "add", "7")]


def test_line_ends_may_be_mixed() -> None:
    assert decode("data: a\rdata: b\r\ndata: c\n\r\n") == [DecodedEvent("a\nb\nc")]


def test_lf_then_cr_are_two_line_ends() -> None:
    assert decode("data: a\n\rdata: b\n\r") == [DecodedEvent("a"), DecodedEvent("b")]


def test_crlf_that_is_cut_in_two_is_one_line_end() -> None:
    pieces = [b"data: a\r", b"\ndata: b\r", b"\n\r", b"\ndata: c\r\n\r", b"\n"]
    assert decode_in_pieces(pieces)[0] == [DecodedEvent("a\nb"), DecodedEvent("c")]


def test_cr_at_the_end_of_a_piece_dispatches_at_once() -> None:
    """Waiting for an LF that may follow would hold the event back until the next one."""
    assert EventStreamDecoder().feed(b"data: a\r\r") == [DecodedEvent("a")]


def test_an_empty_piece_between_cr_and_lf_changes_nothing() -> None:
    assert decode_in_pieces([b"data: a\r", b"", b"\n", b"\r", b"", b"\n"])[0] == [DecodedEvent("a")]


@pytest.mark.parametrize(
    "character",
    ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\x1d", "\x1e"],
    ids=lambda text: f"U+{ord(text):04X}",
)
def test_what_other_formats_take_for_a_line_end_is_data(character: str) -> None:
    """Python's str.splitlines() would end a line at each of these."""
    assert decode(f"data: a{character}b\n\n") == [DecodedEvent(f"a{character}b")]


def test_one_leading_byte_order_mark_is_dropped() -> None:
    assert decode(b"\xef\xbb\xbfdata: a\n\n") == [DecodedEvent("a")]


def test_byte_order_mark_in_three_pieces_is_dropped() -> None:
    assert decode_in_pieces([b"\xef", b"\xbb", b"\xbf", b"data: a\n\n"])[0] == [DecodedEvent("a")]


def test_second_byte_order_mark_belongs_to_the_fields_name() -> None:
    assert decode("\ufeff\ufeffdata: a\n\ndata: b\n\n") == [DecodedEvent("b")]


def test_byte_order_mark_after_the_beginning_is_kept() -> None:
    assert decode("data: \ufeffa\n\n\ufeffdata: b\n\n") == [DecodedEvent("\ufeffa")]


def test_bytes_that_are_no_utf_8_become_replacement_characters() -> None:
    assert decode(b"data: a\xffb\xe2\x82c\n\n") == [DecodedEvent("a\ufffdb\ufffdc")]


def test_character_that_is_cut_in_two_is_one_character() -> None:
    euro = "data: €\n\n".encode()
    assert decode_in_pieces([euro[:7], euro[7:8], euro[8:]])[0] == [DecodedEvent("€")]


def test_unfinished_line_at_the_end_is_discarded() -> None:
    assert decode("data: a\n\ndata: b\n") == [DecodedEvent("a")]
    assert decode("data: a\n\ndata: b") == [DecodedEvent("a")]


def test_id_of_an_unfinished_block_moves_no_cursor() -> None:
    """It was not dispatched, so that the client must ask for it again."""
    assert decode_in_pieces([b"id: 1\ndata: a\n\nid: 2\ndata: b\n"]) == ([DecodedEvent("a", id="1")], "1", None)


# --- Fields (section 9.2.6) -------------------------------------------------------------------------------------------


def test_exactly_one_leading_space_is_stripped() -> None:
    assert [event.data for event in decode("data:   a\n\ndata:\ta\n\ndata: \n\n")] == ["  a", "\ta", ""]


def test_colons_in_the_value_stay() -> None:
    assert decode("data: a: b:c\n\ndata::\n\n") == [DecodedEvent("a: b:c"), DecodedEvent(":")]


def test_field_names_are_compared_as_they_are() -> None:
    assert decode("Data: a\nDATA: b\n data: c\ndata : d\nfoo: e\n\n") == []


def test_comments_are_ignored_also_within_a_block() -> None:
    assert decode("data: a\n: data: b\n:\n:data: c\ndata: d\n\n") == [DecodedEvent("a\nd")]


def test_last_event_type_of_a_block_counts_and_the_next_block_starts_anew() -> None:
    stream = "event: add\nevent: remove\ndata: a\n\ndata: b\n\n"
    assert decode(stream) == [DecodedEvent("a", "remove"), DecodedEvent("b")]


def test_empty_event_type_is_message() -> None:
    assert decode("event: add\nevent\ndata: a\n\n") == [DecodedEvent("a", "message")]


def test_block_without_data_dispatches_nothing_and_its_type_is_forgotten() -> None:
    assert decode("event: add\n\ndata: a\n\n") == [DecodedEvent("a")]


def test_id_without_data_moves_the_cursor_and_dispatches_nothing() -> None:
    """Dispatch, step 1 comes before step 2."""
    assert decode_in_pieces([b"id: 7\n\n"]) == ([], "7", None)


def test_id_holds_for_later_events_without_one() -> None:
    assert decode("id: 1\ndata: a\n\ndata: b\n\n") == [DecodedEvent("a", id="1"), DecodedEvent("b", id="1")]


def test_id_with_nul_is_ignored() -> None:
    assert decode_in_pieces([b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n"])[:2] == (
        [DecodedEvent("a", id="1"), DecodedEvent("b", id="1")],
        "1",
    )


def test_nul_in_data_and_in_a_type_is_kept() -> None:
    assert decode("event: a\0\ndata: b\0c\n\n") == [DecodedEvent("b\0c", "a\0")]


def test_retry_of_digits_is_taken_without_data_and_before_the_block_ends() -> None:
    assert decode_in_pieces([b"retry: 0250\n"]) == ([], "", 250)


@pytest.mark.parametrize("value", ["", " ", "-1", "+1", "1.5", "1e3", " 1", "1 ", "1_000", "0x10", "soon", "٣", "²"])
def test_retry_with_anything_but_ascii_digits_is_ignored(value: str) -> None:
    assert decode_in_pieces([f"retry: 10\nretry: {value}\n\n".encode()]) == ([], "", 10)


def test_retry_of_very_many_digits_does_not_break_the_stream() -> None:
    """Python refuses to make an int of more than 4,300 digits."""
    assert decode(f"retry: {'9' * 5000}\ndata: a\n\n") == [DecodedEvent("a")]


# --- Any stream, any split --------------------------------------------------------------------------------------------


def by_the_standard(stream: bytes) -> tuple[list[DecodedEvent], str, int | None]:
    """The standard's algorithm, word by word, for a stream that is there as a whole."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, _unfinished = re.split("\r\n|\n|\r", text)
    events: list[DecodedEvent] = []
    data = event_type = id_buffer = last_event_id = ""
    retry = None
    for line in lines:
        if line == "":
            last_event_id = id_buffer
            if data:
                events.append(DecodedEvent(data.removesuffix("\n"), event_type or "message", last_event_id))
            data = event_type = ""
            continue
        if line.startswith(":"):
            continue
        field, colon, value = line.partition(":")
        if colon:
            value = value.removeprefix(" ")
        if field == "event":
            event_type = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            id_buffer = value
        elif field == "retry" and re.fullmatch("[0-9]+", value):
            retry = int(value)
    return events, last_event_id, retry


fields = [b"data", b"event", b"id", b"retry", b":", b": ", b" ", b"12", b"a", b"\0"]
ends = [b"\n", b"\r", b"\r\n", b"\n\n", "\u2028".encode(), "\u0085".encode(), b"\x1c"]
broken = ["😀".encode(), b"\xef\xbb\xbf", b"\xff", b"\xe2\x82", b"\xf0\x9f"]
scraps = st.sampled_from([*fields, *ends, *broken])
streams = st.lists(scraps | st.binary(max_size=3), max_size=60).map(b"".join)


@given(stream=streams, data=st.data())
@example(stream=b"", data=None)
def test_any_split_of_any_bytes_gives_the_events_of_the_standard(stream: bytes, data: st.DataObject | None) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8))) if data else []
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode_in_pieces(pieces) == by_the_standard(stream)


@given(stream=streams)
def test_byte_by_byte_gives_the_events_of_the_standard(stream: bytes) -> None:
    assert decode_in_pieces(stream[at : at + 1] for at in range(len(stream))) == by_the_standard(stream)


# --- Encoding ---------------------------------------------------------------------------------------------------------


def test_encoded_event_has_its_fields_in_order_and_ends_with_a_blank_line() -> None:
    encoded = sse.encode("a\nb", event="add", id=7, retry=250)
    assert encoded == b"retry: 250\nevent: add\nid: 7\ndata: a\ndata: b\n\n"


def test_default_type_is_left_out() -> None:
    assert sse.encode("a") == b"data: a\n\n"


def test_empty_data_is_an_event_and_no_data_is_none() -> None:
    assert decode(sse.encode("")) == [DecodedEvent("")]
    assert decode(sse.encode(None, id=3)) == []


def test_each_line_of_data_has_its_field() -> None:
    assert sse.encode("a\nb\n") == b"data: a\ndata: b\ndata: \n\n"


def test_data_that_looks_like_fields_stays_data() -> None:
    looks = "x\n\nevent: evil\nid: 99\nretry: 1\n: comment\n\ndata: y"
    assert decode(sse.encode(looks, id=1)) == [DecodedEvent(looks, id="1")]


def test_checkpoint_moves_the_cursor_by_a_typed_event_with_data() -> None:
    assert sse.checkpoint(41) == b"event: stream-checkpoint\nid: 41\ndata: {}\n\n"
    assert decode_in_pieces([sse.checkpoint(41)])[1] == "41"


def test_heartbeat_is_one_line_and_never_lands_inside_an_event() -> None:
    assert sse.HEARTBEAT == b":\n"
    block = sse.encode("a\nb", event="add", id=7)
    lines = block.splitlines(keepends=True)
    for at in range(len(lines) + 1):
        beaten = b"".join([*lines[:at], sse.HEARTBEAT, *lines[at:]])
        assert decode(beaten) == decode(block), "a comment is nothing, wherever it comes"


# Lone surrogates cannot be UTF-8 and NUL not in PostgreSQL; publishing refuses both.
# encode_data() replaces CR before messages are stored.
publishable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")) | st.text(
    st.sampled_from("\n:  \ufeff\u2028\u2029\u0085\v\fx😀"), max_size=30
)
one_line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=99)


@given(data=publishable, event=one_line.filter(bool), id=st.integers(0, 10**18), cut=st.integers(0, 200))
@example(data="\ufeff", event=" ", id=0, cut=1)
@example(data="\n\n\n", event="message", id=1, cut=20)
@example(data="x" * 200_000, event="message", id=1, cut=100)
def test_encoded_event_is_decoded_again(data: str, event: str, id: int, cut: int) -> None:
    encoded = sse.encode(data, event=event, id=id)
    assert decode_in_pieces([encoded[:cut], encoded[cut:]])[0] == [DecodedEvent(data, event, str(id))]


@given(events=st.lists(st.tuples(publishable, one_line.filter(bool))))
def test_encoded_events_are_decoded_in_order(events: list[tuple[str, str]]) -> None:
    stream = b"".join(sse.encode(data, event=event, id=at) for at, (data, event) in enumerate(events))
    decoded = decode(stream)
    assert [(event.data, event.event, event.id) for event in decoded] == [
        (data, event, str(at)) for at, (data, event) in enumerate(events)
    ]


# --- httpx-sse --------------------------------------------------------------------------------------------------------

# Where httpx-sse (seen in 0.4.3) leaves the standard:
# - It keeps a leading byte order mark, so that the first field's name is unknown to it.
# - It dispatches at every blank line once there was an id, and for blocks with a type, an id or a retry but no data.
# - It takes a retry that int() takes, such as +1, 1_000 and digits of other scripts.
# A stream of ours holds none of these: each of its blocks has data, its heartbeats bring no blank line, it begins with
# a field.


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
def test_decoder_agrees_with_httpx_sse_where_that_follows_the_standard(stream: str) -> None:
    assert decode(stream) == read_by_httpx_sse(stream.encode())


@given(data=st.lists(publishable, max_size=5))
def test_httpx_sse_reads_what_was_encoded(data: list[str]) -> None:
    blocks = [sse.encode(text, event="add" if at % 2 else "message", id=at) for at, text in enumerate(data)]
    stream = b"retry: 3000\n" + sse.checkpoint(5) + sse.HEARTBEAT.join(blocks) + sse.HEARTBEAT + sse.checkpoint(9)
    assert read_by_httpx_sse(stream) == decode(stream)
    assert len(decode(stream)) == len(data) + 2


# --- What an unfinished event holds ---------------------------------------------------------------------------------


def test_decoder_says_how_much_waits_for_its_events_end() -> None:
    decoder = EventStreamDecoder()
    for piece, held in [
        (b"data: ab", 8),
        (b"cd", 10),
        (b"\n", 5),
        (b": a comment\n", 5),
        (b"data:ef\nda", 10),
        (b"ta:\n\n", 0),
    ]:
        decoder.feed(piece)
        assert decoder.held == held, piece
