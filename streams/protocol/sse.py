"""The wire format: encode and decode event streams, as in the WHATWG's HTML standard (section 9.2, server-sent events).

No I/O and no Django. `protocol/events.py` decides which messages can be published.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

# A longer wait is of no use to a client, and int() refuses very long numbers.
MAX_RETRY_DIGITS = 18

# A number with more digits cannot be a position of a log.
MAX_POSITION_DIGITS = 18

# A comment of one newline, not two: a blank line would end a block, and some clients dispatch an empty event there.
HEARTBEAT = b":\n"

_LINE_END = re.compile("\r\n|\n|\r")


def encode(
    data: str | None = None,
    *,
    event: str = "message",
    id: int | str | None = None,
    retry: int | None = None,
) -> bytes:
    """Return one block of an event stream in UTF-8, with the blank line that ends it.

    If `data` is None, the field is left out, and clients dispatch no event. `retry` is in milliseconds. The caller
    ensures that `data` has no CR, and that `event` and `id` have neither line ends nor NUL (see protocol/events.py).
    """
    lines = []
    if retry is not None:
        lines.append(f"retry: {retry}\n")
    if event != "message":  # the default by the standard; leaving it out saves 15 bytes an event
        lines.append(f"event: {event}\n")
    if id is not None:
        lines.append(f"id: {id}\n")
    if data is not None:
        # The space is always written: a client strips exactly one, so that data's own leading spaces survive.
        body = data.replace("\n", "\ndata: ")
        lines.append(f"data: {body}\n")
    lines.append("\n")
    return "".join(lines).encode()


def encode_rows(rows: Iterable[tuple[int, str, str, str, int]]) -> list[bytes]:
    """Return the block of each message. `rows` have its position, channel, event type, data and size.

    A replay encodes tens of thousands of messages. Nearly all have the default type and one line, and for these, this
    takes a third of the time of encode().
    """
    return [
        f"id: {position}\ndata: {data}\n\n".encode()
        if event == "message" and "\n" not in data
        else encode(data, event=event, id=position)
        for position, _, event, data, _ in rows
    ]


class StoredEvent(NamedTuple):
    """A message that has its position: readers of the log return it, and notices carry it."""

    position: int
    channel: str
    event: str
    data: str

    @property
    def id(self) -> str:
        """The event id on the wire."""
        return str(self.position)

    def json(self) -> Any:
        """Return the value of the data, which is JSON. Raises ValueError if it is not."""
        return json.loads(self.data)

    def encode(self) -> bytes:
        return encode(self.data, event=self.event, id=self.position)


def is_position(text: str) -> bool:
    """Return True if a Last-Event-ID can be a position of a log."""
    return text.isascii() and text.isdigit() and len(text) <= MAX_POSITION_DIGITS


def checkpoint(position: int) -> bytes:
    """Return a block that moves the client's cursor to `position`, and that no listener for messages gets.

    In the standard, an id alone is enough. Firefox (seen in 153 ESR) keeps an id only from a block that has data.
    """
    return encode("{}", event="stream-checkpoint", id=position)


@dataclass(frozen=True, slots=True)
class DecodedEvent:
    """An event as an EventSource dispatches it. `id` is the last event id at that moment, or "" if there is none."""

    data: str
    event: str = "message"
    id: str = ""

    def json(self) -> Any:
        """Return the value of the data, which is JSON. Raises ValueError if it is not."""
        return json.loads(self.data)


class EventStreamDecoder:
    """Decode the bytes of an event stream, in chunks of any size, by the standard's parsing rules.

    Only CR, LF and CRLF end a line. A leading byte order mark is dropped, and an id with NUL is ignored. Bytes that are
    not UTF-8 become U+FFFD. An unfinished block at the end is never dispatched. A client would reconnect with
    `last_event_id` after `retry_milliseconds`. `held` is the number of characters that wait for the end of their event.
    The standard sets no limit for it: check it after each feed() if the sender is not trusted.
    """

    def __init__(self) -> None:
        self.last_event_id = ""
        self.retry_milliseconds: int | None = None
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True
        self._after_cr = False
        self._unfinished: list[str] = []  # chunks of the line that has not ended yet
        self._data: list[str] = []
        self._event = ""
        self._id: str | None = None
        self.held = 0
        self._held_lines = 0

    def feed(self, chunk: bytes) -> list[DecodedEvent]:
        """Return the events that `chunk` completes, in order."""
        text = self._text.decode(chunk)
        if not text:
            return []
        if self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        if self._after_cr and text:  # a CRLF in two chunks is one line end
            self._after_cr = False
            text = text.removeprefix("\n")
        self._after_cr = text.endswith("\r")
        *lines, rest = _LINE_END.split(text) if "\r" in text else text.split("\n")
        events = []
        for line in lines:
            self._unfinished.append(line)
            if (event := self._line("".join(self._unfinished))) is not None:
                events.append(event)
            self._unfinished.clear()
        self._unfinished.append(rest)
        self.held = self._held_lines + len(rest) if lines else self.held + len(rest)
        return events

    def _line(self, line: str) -> DecodedEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._held_lines += len(value) + 1
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            digits = value.lstrip("0") or "0"
            self.retry_milliseconds = int(digits if len(digits) <= MAX_RETRY_DIGITS else "9" * MAX_RETRY_DIGITS)
        return None

    def _dispatch(self) -> DecodedEvent | None:
        if self._id is not None:  # also without data: step 1 of the standard's dispatch
            self.last_event_id, self._id = self._id, None
        data, event = self._data, self._event
        self._data, self._event, self._held_lines = [], "", 0
        if not data:
            return None
        return DecodedEvent("\n".join(data), event or "message", self.last_event_id)
