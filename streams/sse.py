"""The wire format: events to bytes and back, as the WHATWG's HTML standard has it (section 9.2, server-sent events).

Pure functions and one decoder; no I/O, no Django. What may be published is decided in events.py.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass

# Longer waits than any client keeps; and int() refuses very long numbers.
MAX_RETRY_DIGITS = 18

# A comment of one newline, not two: a blank line would end a block, and some clients dispatch an empty event there.
HEARTBEAT = b":\n"


def normalize_newlines(text: str) -> str:
    """CR and CRLF as LF. The format ends a line at each of the three, so that it can carry only one of them."""
    if "\r" not in text:
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n")


def encode(
    data: str | None = None,
    *,
    event: str = "message",
    id: int | str | None = None,
    retry: int | None = None,
) -> bytes:
    """One block of an event stream, UTF-8, with the blank line that ends it.

    `data` None leaves the field out: such a block dispatches nothing. `retry` is in milliseconds. The caller has seen
    to it that `event` and `id` hold no line ends and no NUL (see events.py).
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
        body = normalize_newlines(data).replace("\n", "\ndata: ")
        lines.append(f"data: {body}\n")
    lines.append("\n")
    return "".join(lines).encode()


def checkpoint(position: int) -> bytes:
    """A block that moves the client's cursor to `position` and that nobody who listens for messages sees.

    By the standard an id alone would do; Firefox (seen in 153 ESR) keeps an id only from a block that has data.
    """
    return encode("{}", event="stream-checkpoint", id=position)


@dataclass(frozen=True, slots=True)
class DecodedEvent:
    """An event as an EventSource would dispatch it. `id` is the last event id at that moment, "" for none."""

    data: str
    event: str = "message"
    id: str = ""


class EventStreamDecoder:
    """An event stream's bytes, in pieces of any size, to events: the standard's parsing rules in full.

    Only CR, LF and CRLF end a line. A leading byte order mark is dropped, an id with NUL ignored, bytes that are no
    UTF-8 become U+FFFD, and an unfinished block at the end is never dispatched. `last_event_id` and
    `retry_milliseconds` are what a client would reconnect with. `held` is how many characters wait for their event's
    end: whoever reads from a stranger looks at it after each feed(), for the standard sets no bound.
    """

    def __init__(self) -> None:
        self.last_event_id = ""
        self.retry_milliseconds: int | None = None
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True
        self._after_cr = False
        self._unfinished: list[str] = []  # pieces of the line that has not ended yet
        self._data: list[str] = []
        self._event = ""
        self._id: str | None = None
        self.held = 0
        self._held_lines = 0

    def feed(self, chunk: bytes) -> list[DecodedEvent]:
        """The events that `chunk` completes, in order."""
        text = self._text.decode(chunk)
        if not text:
            return []
        if self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        if self._after_cr and text:  # a CRLF that was cut in two is one line end
            self._after_cr = False
            text = text.removeprefix("\n")
        self._after_cr = text.endswith("\r")
        *lines, rest = normalize_newlines(text).split("\n")
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
        if self._id is not None:  # also where there is no data: dispatch, step 1
            self.last_event_id, self._id = self._id, None
        data, event = self._data, self._event
        self._data, self._event, self._held_lines = [], "", 0
        if not data:
            return None
        return DecodedEvent("\n".join(data), event or "message", self.last_event_id)
