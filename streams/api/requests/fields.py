"""Fields for the values in requests. The core checks each value; the decorators describe it for the schema.

DRF's own fields are not used, because they convert 5 to "5" and true to 1.
"""

from __future__ import annotations

import math
import re
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from streams import log, redaction, tokens
from streams.conf import settings
from streams.exceptions import HTTPError, MessageTooLarge
from streams.protocol import events
from streams.protocol.sse import MAX_POSITION_DIGITS, is_position

CHANNEL = {
    "type": "string",
    "pattern": rf"^[A-Za-z0-9._-]{{1,{events.CHANNEL_MAX_LENGTH}}}$",
    "minLength": 1,
    "maxLength": events.CHANNEL_MAX_LENGTH,
    "example": "news",
}
MAX_POSITION = 10**MAX_POSITION_DIGITS - 1

# A user's primary key: a number, or a text such as a UUID.
MAX_KEY_CHARACTERS = 150


_TOKEN_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{tokens.MAX_ID_CHARACTERS}}}")
_TOKEN = re.compile(rf"(?=.{{1,{tokens.MAX_CHARACTERS}}}$){re.escape(redaction.PREFIX)}[A-Za-z0-9_:-]+")


class CheckedField(serializers.Field):
    """A field whose check() returns the value to use, or raises ValueError."""

    def check(self, value: Any) -> Any:
        raise NotImplementedError

    def to_internal_value(self, data: Any) -> Any:
        try:
            return self.check(data)
        except ValueError as error:  # InvalidMessage is one as well
            raise serializers.ValidationError(str(error)) from None

    def to_representation(self, value: Any) -> Any:
        return value


@extend_schema_field(CHANNEL)
class ChannelField(CheckedField):
    """A channel's name."""

    def check(self, value: Any) -> str:
        return events.validate_channel(value)


@extend_schema_field(
    {
        "type": "string",
        "minLength": 1,
        "maxLength": events.EVENT_TYPE_MAX_LENGTH,
        "pattern": r"^(?!stream-)[^\r\n\u0000]+$",
        "default": "message",
        "example": "message",
    }
)
class EventTypeField(CheckedField):
    """An event's type."""

    def check(self, value: Any) -> str:
        return events.validate_event_type(value)


@extend_schema_field(
    {
        "type": "string",
        "minLength": 1,
        "maxLength": events.IDEMPOTENCY_KEY_MAX_LENGTH,
        "pattern": r"^[^\u0000]+$",
        "example": "order-17-paid",
    }
)
class IdempotencyKeyField(CheckedField):
    """A message's idempotency key."""

    def check(self, value: Any) -> str | None:
        return events.validate_idempotency_key(value)


# In JSON Schema, a pattern applies to strings only.
@extend_schema_field(
    {
        "pattern": r"^[^\u0000]*$",
        "description": "Any JSON. A string is sent as it is, anything else as JSON. A string cannot contain NUL.",
    }
)
class DataField(CheckedField):
    """A message's data, converted to the text that streams send."""

    def check(self, value: Any) -> str:
        try:
            return events.encode_data(value, max_bytes=settings.MAX_MESSAGE_BYTES)
        except MessageTooLarge as error:
            raise HTTPError(413, "message-too-large", str(error)) from None

    def validate_empty_values(self, data: Any) -> tuple[bool, Any]:
        # DRF would refuse null, which is valid JSON.
        return (False, None) if data is None else super().validate_empty_values(data)


@extend_schema_field(
    {
        "type": "string",
        "pattern": rf"^[A-Za-z0-9._*-]{{1,{events.CHANNEL_MAX_LENGTH}}}$",
        "minLength": 1,
        "maxLength": events.CHANNEL_MAX_LENGTH,
        "example": "score.*",
    }
)
class PatternField(CheckedField):
    """A channel's name, or a pattern in which * matches any characters."""

    def check(self, value: Any) -> str:
        return tokens.validate_pattern(value)


class PatternsField(serializers.ListField):
    """The channels and patterns of a token."""

    child = PatternField()

    def to_internal_value(self, data: Any) -> list[str]:
        # Checked before the items, because each invalid item would add an error.
        if isinstance(data, list) and len(data) > (limit := settings.MAX_CHANNELS_PER_STREAM):
            raise serializers.ValidationError(
                f"A token names at most {limit} channels (STREAMS['MAX_CHANNELS_PER_STREAM']); got {len(data)}."
            )
        found: list[str] = super().to_internal_value(data)
        return found


@extend_schema_field(
    {
        "oneOf": [
            {"type": "integer"},
            {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS, "pattern": r"^[^\u0000]+$"},
        ],
        "example": 7,
    }
)
class UserKeyField(CheckedField):
    """A user's primary key, as text."""

    def check(self, value: Any) -> str:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole and not isinstance(value, str):
            raise ValueError("A user's primary key is a number or a string.")
        text = str(value)
        if not 1 <= len(text) <= MAX_KEY_CHARACTERS or "\0" in text or not _is_unicode(text):
            raise ValueError(f"A user's primary key has 1 to {MAX_KEY_CHARACTERS} characters, without NUL.")
        return text


@extend_schema_field(
    {
        "oneOf": [
            {"type": "string", "pattern": rf"^[A-Za-z0-9_-]{{1,{tokens.MAX_ID_CHARACTERS}}}$"},
            {"type": "string", "pattern": r"^streams\.[A-Za-z0-9_:-]+$", "maxLength": tokens.MAX_CHARACTERS},
        ],
        "example": "streams.eyJpIjoi…",
    }
)
class TokenTextField(CheckedField):
    """A signed token, or a token's id."""

    def check(self, value: Any) -> str:
        if isinstance(value, str) and (_TOKEN.fullmatch(value) or _TOKEN_ID.fullmatch(value)):
            return value
        raise ValueError(
            f"Send a signed token, {redaction.PREFIX}…, or a token's id, which the response that issued it contains."
        )


@extend_schema_field({"type": "number", "minimum": 1, "example": 600})
class SecondsField(CheckedField):
    """A token's lifetime."""

    def check(self, value: Any) -> float:
        limit = settings.MAX_TOKEN_SECONDS
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 1 <= value <= limit or not math.isfinite(value):
            raise ValueError(f"A token lives for 1 to {limit:g} seconds (STREAMS['MAX_TOKEN_SECONDS']).")
        return float(value)


# --- In queries, where every value is a string ------------------------------------------------------------------------


class PositionField(CheckedField):
    """A message's position. There does not have to be a message."""

    def check(self, value: Any) -> int:
        if not isinstance(value, str) or not is_position(value):
            raise ValueError(f"A position is a whole number of at most {MAX_POSITION_DIGITS} digits.")
        return int(value)


class LimitField(CheckedField):
    """The number of items in a response."""

    def check(self, value: Any) -> int:
        limit = log.PAGE_MESSAGES
        if not isinstance(value, str) or not is_position(value) or not 1 <= int(value) <= limit:
            raise ValueError(f"limit is a whole number from 1 to {limit}.")
        return int(value)


class NamePartField(CheckedField):
    """A channel's name, the beginning of one, or an empty string."""

    def check(self, value: Any) -> str:
        return value if value == "" else events.validate_channel(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
