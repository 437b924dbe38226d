"""The rules for channels, event types and data, and the conversion of data to text. No I/O.

The rules are the same on every database, so that PostgreSQL never refuses a message that SQLite accepts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from django.core.serializers.json import DjangoJSONEncoder

from streams.conf import settings
from streams.exceptions import InvalidChannel, InvalidData, InvalidEventType, InvalidMessage, MessageTooLarge
from streams.protocol import sse

CHANNEL_MAX_LENGTH = 99
EVENT_TYPE_MAX_LENGTH = 99
IDEMPOTENCY_KEY_MAX_LENGTH = 255
CONTROL_PREFIX = "stream-"

# A channel with one of these prefixes belongs to one user, or to one answer of the relay.
USER_PREFIX = "user."
GENERATION_PREFIX = "generation."
PRIVATE_PREFIXES = (USER_PREFIX, GENERATION_PREFIX)

_CHANNEL = re.compile(rf"[A-Za-z0-9._-]{{1,{CHANNEL_MAX_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class Event:
    """An event for EventStreamResponse. (publish() takes its fields instead.)

    `data`: a str is sent as it is, anything else as JSON. `event`: the type that the client listens for. `id`: the
    client sends it back as Last-Event-ID. `retry`: the milliseconds that the client waits before it reconnects.
    """

    data: Any
    event: str = "message"
    id: int | str | None = None
    retry: int | None = None

    def encode(self) -> bytes:
        """Return the event's bytes on the wire. Raises InvalidMessage if a field cannot be sent."""
        if not _is_line(self.event, without="\r\n"):
            raise InvalidEventType(f"An event's type is one line; got {_short(self.event)}.")
        if self.id is not None and not _is_whole(self.id) and not _is_line(self.id, without="\r\n\0"):
            raise InvalidMessage(f"An event's id is one line without NUL; got {_short(self.id)}.")
        if self.retry is not None and not (_is_whole(self.retry) and self.retry >= 0):
            raise InvalidMessage(f"An event's retry is a whole number of milliseconds; got {_short(self.retry)}.")
        data = encode_data(self.data, max_bytes=None, allow_nul=True)
        return sse.encode(data, event=self.event or "message", id=self.id, retry=self.retry)


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to append, for publish_many(). Its fields are the arguments of publish(), and one more.

    `strict_key`: if the idempotency key was used for a message with other data or another type, the call appends
    nothing and raises IdempotencyKeyReused. If it is False, the call returns the earlier message.
    """

    channel: str
    data: Any
    event: str = "message"
    idempotency_key: str | None = None
    published_by: Any = None
    strict_key: bool = False
    # The trace context of publish(), as a W3C traceparent. Only publishing sets it.
    traceparent: str = field(default="", kw_only=True, repr=False, compare=False)


def private_prefix(channel: str) -> str:
    """Return the prefix that makes `channel` a user's or an answer's; "" if it has none of them."""
    return next((prefix for prefix in PRIVATE_PREFIXES if channel.startswith(prefix)), "")


def validate_channel(channel: object) -> str:
    """Return `channel`, or raise InvalidChannel."""
    if isinstance(channel, str) and _CHANNEL.fullmatch(channel):
        return channel
    raise InvalidChannel(
        f"Channel names use A-Z a-z 0-9 . _ - and at most {CHANNEL_MAX_LENGTH} characters; got {_short(channel)}."
    )


def validate_channels(channels: Iterable[object]) -> tuple[str, ...]:
    """Return the channels, each once and in the order given, or raise InvalidChannel."""
    if isinstance(channels, str):  # otherwise each letter would be a name
        raise InvalidChannel(f"Channels are a list of names; got {_short(channels)}. Write [{_short(channels)}].")
    return tuple(dict.fromkeys(validate_channel(channel) for channel in channels))


def validate_event_type(event: object) -> str:
    """Return `event`, or raise InvalidEventType."""
    if not isinstance(event, str) or not 1 <= len(event) <= EVENT_TYPE_MAX_LENGTH:
        rule = f"An event's type is a text of 1 to {EVENT_TYPE_MAX_LENGTH} characters (the default is 'message')"
    elif any(character in event for character in "\r\n\0"):
        rule = "An event's type is one line without CR, LF and NUL"
    elif event.startswith(CONTROL_PREFIX):
        rule = f"Types that begin with {CONTROL_PREFIX!r} are the stream's own; choose another name"
    elif _has_lone_surrogate(event):
        rule = "An event's type is Unicode text, and a lone surrogate is none"
    else:
        return event
    raise InvalidEventType(f"{rule}; got {_short(event)}.")


def validate_idempotency_key(key: object) -> str | None:
    """Return `key`, or raise InvalidMessage."""
    if key is None:
        return None
    if _is_line(key, without="\0") and 1 <= len(key) <= IDEMPOTENCY_KEY_MAX_LENGTH:
        return key
    raise InvalidMessage(
        f"An idempotency key is a text of 1 to {IDEMPOTENCY_KEY_MAX_LENGTH} characters without NUL; got {_short(key)}."
    )


def normalize_newlines(text: str) -> str:
    """Replace CR and CRLF by LF. Each of the three ends a line on the wire, so that it can carry only one of them."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def encode_data(data: object, *, max_bytes: int | None, allow_nul: bool = False) -> str:
    """Return `data` as the text that goes on the wire, or raise InvalidData.

    In a str, CR and CRLF become LF. Anything else becomes JSON by DjangoJSONEncoder. `max_bytes` is the limit for the
    text in UTF-8.
    """
    text = data if isinstance(data, str) else _to_json(data)
    if "\r" in text:
        text = normalize_newlines(text)
    if "\0" in text and not allow_nul:
        raise InvalidData("Data cannot hold NUL (U+0000): PostgreSQL cannot store it. Remove it, or send it as JSON.")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidData(
            f"Data is Unicode text; it has a lone surrogate (U+{ord(text[error.start]):04X}) at character "
            f"{error.start}, which UTF-8 cannot carry. Decode the source with errors='replace'."
        ) from None
    if max_bytes is not None and size > max_bytes:
        raise MessageTooLarge(
            f"Data is at most {max_bytes} bytes in UTF-8 (STREAMS['MAX_MESSAGE_BYTES']); got {size}. "
            "Publish a reference to the large thing, or raise the setting."
        )
    return text


def check(message: NewMessage, traceparent: str = "") -> NewMessage:
    """Return a valid message, with its data as text and its trace context, or raise InvalidMessage."""
    validate_channel(message.channel)
    data = encode_data(message.data, max_bytes=settings.MAX_MESSAGE_BYTES)
    validate_event_type(message.event)
    validate_idempotency_key(message.idempotency_key)
    if data is message.data and traceparent == message.traceparent:
        return message
    return replace(message, data=data, traceparent=traceparent)


def _to_json(data: object) -> str:
    try:
        return json.dumps(data, cls=DjangoJSONEncoder, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidData(
            f"Data is a str, or what DjangoJSONEncoder can make JSON of; got {type(data).__name__}: {error}"
        ) from None


def _is_line(value: object, *, without: str) -> TypeGuard[str]:
    return (
        isinstance(value, str)
        and not any(character in value for character in without)
        and not _has_lone_surrogate(value)
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}…"
