"""The decoder against the HTML standard, sections 9.2.5 (parsing) and 9.2.6 (interpreting a stream)."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.protocol.sse import DecodedEvent, EventStreamDecoder
from tests.protocol.support import decode, decode_in_pieces


def test_example_of_three_lines() -> None:
    assert decode("data: YHOO\ndata: +2\ndata: 10\n\n") == [DecodedEvent("YHOO\n+2\n10")]


def test_example_of_comments_and_ids() -> None:
    """Four blocks: a comment, an event with an id, one that resets the id, one with a leading space."""
    decoder = EventStreamDecoder()
    assert decoder.feed(b": test stream\n\n") == []
    assert decoder.feed(b"data: first event\nid: 1\n\n") == [DecodedEvent("first event", id="1")]
    assert decoder.last_event_id == "1"
    assert decoder.feed(b"data:second event\nid\n\n") == [DecodedEvent("second event", id="")]
    assert decoder.last_event_id == "", "an id field without a value: no Last-Event-ID is sent any more"
    assert decoder.feed(b"data:  third event\n\n") == [DecodedEvent(" third event")]


def test_example_of_unfinished_block() -> None:
    """Two events, of one empty line and of two. No blank line follows the third block."""
    assert decode("data\n\ndata\ndata\n\ndata:") == [DecodedEvent(""), DecodedEvent("\n")]


def test_example_of_optional_space() -> None:
    assert decode("data:test\n\ndata: test\n\n") == [DecodedEvent("test"), DecodedEvent("test")]


def test_example_of_three_messages() -> None:
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


def test_example_of_event_types() -> None:
    """Section 9.2.1: two types, add and remove."""
    stream = "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n"
    assert decode(stream) == [
        DecodedEvent("73857293", "add"),
        DecodedEvent("2153", "remove"),
        DecodedEvent("113411", "add"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_each_line_end_ends_a_line(end: str) -> None:
    assert decode(end.join(["event: add", "id: 7", "data: a", "data: b", "", ""])) == [DecodedEvent("a\nb", "add", "7")]


def test_line_ends_can_be_mixed() -> None:
    assert decode("data: a\rdata: b\r\ndata: c\n\r\n") == [DecodedEvent("a\nb\nc")]


def test_lf_cr_is_two_line_ends() -> None:
    assert decode("data: a\n\rdata: b\n\r") == [DecodedEvent("a"), DecodedEvent("b")]


def test_split_crlf_is_one_line_end() -> None:
    pieces = [b"data: a\r", b"\ndata: b\r", b"\n\r", b"\ndata: c\r\n\r", b"\n"]
    assert decode_in_pieces(pieces)[0] == [DecodedEvent("a\nb"), DecodedEvent("c")]


def test_cr_dispatches_at_once() -> None:
    """Waiting for a possible LF would hold the event back until the next one."""
    assert EventStreamDecoder().feed(b"data: a\r\r") == [DecodedEvent("a")]


def test_empty_chunk_changes_nothing() -> None:
    """The empty chunk is between the CR and the LF of a line end."""
    assert decode_in_pieces([b"data: a\r", b"", b"\n", b"\r", b"", b"\n"])[0] == [DecodedEvent("a")]


@pytest.mark.parametrize(
    "character",
    ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\x1d", "\x1e"],
    ids=lambda text: f"U+{ord(text):04X}",
)
def test_other_separators_are_data(character: str) -> None:
    """Python's str.splitlines() would end a line at each of these."""
    assert decode(f"data: a{character}b\n\n") == [DecodedEvent(f"a{character}b")]


def test_leading_byte_order_mark_is_dropped() -> None:
    assert decode(b"\xef\xbb\xbfdata: a\n\n") == [DecodedEvent("a")]


def test_split_byte_order_mark_is_dropped() -> None:
    assert decode_in_pieces([b"\xef", b"\xbb", b"\xbf", b"data: a\n\n"])[0] == [DecodedEvent("a")]


def test_second_byte_order_mark_is_kept() -> None:
    """It becomes part of the field's name, which is then unknown."""
    assert decode("\ufeff\ufeffdata: a\n\ndata: b\n\n") == [DecodedEvent("b")]


def test_later_byte_order_mark_is_kept() -> None:
    assert decode("data: \ufeffa\n\n\ufeffdata: b\n\n") == [DecodedEvent("\ufeffa")]


def test_invalid_utf_8_is_replaced() -> None:
    assert decode(b"data: a\xffb\xe2\x82c\n\n") == [DecodedEvent("a\ufffdb\ufffdc")]


def test_split_character_is_one_character() -> None:
    euro = "data: €\n\n".encode()
    assert decode_in_pieces([euro[:7], euro[7:8], euro[8:]])[0] == [DecodedEvent("€")]


def test_unfinished_line_is_discarded() -> None:
    assert decode("data: a\n\ndata: b\n") == [DecodedEvent("a")]
    assert decode("data: a\n\ndata: b") == [DecodedEvent("a")]


def test_unfinished_block_moves_no_cursor() -> None:
    """It was not dispatched, so the client must ask for it again."""
    assert decode_in_pieces([b"id: 1\ndata: a\n\nid: 2\ndata: b\n"]) == ([DecodedEvent("a", id="1")], "1", None)


def test_one_leading_space_is_stripped() -> None:
    assert [event.data for event in decode("data:   a\n\ndata:\ta\n\ndata: \n\n")] == ["  a", "\ta", ""]


def test_colons_in_value_are_kept() -> None:
    assert decode("data: a: b:c\n\ndata::\n\n") == [DecodedEvent("a: b:c"), DecodedEvent(":")]


def test_field_names_are_case_sensitive() -> None:
    assert decode("Data: a\nDATA: b\n data: c\ndata : d\nfoo: e\n\n") == []


def test_comments_are_ignored_within_blocks() -> None:
    assert decode("data: a\n: data: b\n:\n:data: c\ndata: d\n\n") == [DecodedEvent("a\nd")]


def test_last_type_of_block_counts() -> None:
    """The next block starts with the default type."""
    stream = "event: add\nevent: remove\ndata: a\n\ndata: b\n\n"
    assert decode(stream) == [DecodedEvent("a", "remove"), DecodedEvent("b")]


def test_empty_event_type_is_message() -> None:
    assert decode("event: add\nevent\ndata: a\n\n") == [DecodedEvent("a", "message")]


def test_block_without_data_is_dropped() -> None:
    """Its type does not apply to the next block."""
    assert decode("event: add\n\ndata: a\n\n") == [DecodedEvent("a")]


def test_id_without_data_moves_cursor() -> None:
    """It dispatches nothing: in the dispatch algorithm, step 1 comes before step 2."""
    assert decode_in_pieces([b"id: 7\n\n"]) == ([], "7", None)


def test_id_applies_to_later_events() -> None:
    assert decode("id: 1\ndata: a\n\ndata: b\n\n") == [DecodedEvent("a", id="1"), DecodedEvent("b", id="1")]


def test_id_with_nul_is_ignored() -> None:
    assert decode_in_pieces([b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n"])[:2] == (
        [DecodedEvent("a", id="1"), DecodedEvent("b", id="1")],
        "1",
    )


def test_nul_in_data_is_kept() -> None:
    assert decode("event: a\0\ndata: b\0c\n\n") == [DecodedEvent("b\0c", "a\0")]


def test_retry_applies_at_once() -> None:
    """It needs no data and no end of the block."""
    assert decode_in_pieces([b"retry: 0250\n"]) == ([], "", 250)


@pytest.mark.parametrize("value", ["", " ", "-1", "+1", "1.5", "1e3", " 1", "1 ", "1_000", "0x10", "soon", "٣", "²"])
def test_retry_of_other_characters_is_ignored(value: str) -> None:
    assert decode_in_pieces([f"retry: 10\nretry: {value}\n\n".encode()]) == ([], "", 10)


def test_retry_of_many_digits_is_harmless() -> None:
    """Python's int() refuses more than 4,300 digits."""
    assert decode(f"retry: {'9' * 5000}\ndata: a\n\n") == [DecodedEvent("a")]


def decode_by_the_standard(stream: bytes) -> tuple[list[DecodedEvent], str, int | None]:
    """Decode a complete stream with the algorithm of the standard, step by step."""
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
def test_any_split_follows_the_standard(stream: bytes, data: st.DataObject | None) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8))) if data else []
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode_in_pieces(pieces) == decode_by_the_standard(stream)


@given(stream=streams)
def test_single_bytes_follow_the_standard(stream: bytes) -> None:
    assert decode_in_pieces(stream[at : at + 1] for at in range(len(stream))) == decode_by_the_standard(stream)


def test_decoder_counts_unfinished_bytes() -> None:
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
