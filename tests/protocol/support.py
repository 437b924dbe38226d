"""Helpers for the tests of the wire format and of validation."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import strategies as st

from streams.protocol.sse import DecodedEvent, EventStreamDecoder

CHANNEL_RULE = "Channel names use A-Z a-z 0-9 . _ - and at most 99 characters; got {}."


def decode(stream: bytes | str) -> list[DecodedEvent]:
    return EventStreamDecoder().feed(stream.encode() if isinstance(stream, str) else stream)


def refusal_of(error: pytest.ExceptionInfo[BaseException]) -> str:
    return str(error.value)


def decode_in_pieces(pieces: Iterable[bytes]) -> tuple[list[DecodedEvent], str, int | None]:
    decoder = EventStreamDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events, decoder.last_event_id, decoder.retry_milliseconds


# Text that a message can hold. Publishing refuses lone surrogates, which UTF-8 cannot encode, and NUL, which PostgreSQL
# cannot store. encode_data() replaces CR before messages are stored.
publishable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")) | st.text(
    st.sampled_from("\n:  \ufeff\u2028\u2029\u0085\v\fx😀"), max_size=30
)
one_line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=99)
