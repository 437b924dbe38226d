"""Fields for the values in requests. A function checks each value, and a JSON Schema describes it.

DRF's own fields are not used, because they convert 5 to "5" and true to 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from streams import log, redaction, tokens
from streams.conf import settings
from streams.exceptions import HTTPError, MessageTooLarge
from streams.protocol import events
from streams.protocol.sse import MAX_POSITION_DIGITS, is_position

MAX_POSITION = 10**MAX_POSITION_DIGITS - 1

# A user's primary key: a number, or a text such as a UUID.
MAX_KEY_CHARACTERS = 150

_KEY = re.compile(rf"[^\0\ud800-\udfff]{{1,{MAX_KEY_CHARACTERS}}}")  # without lone surrogates
_TOKEN_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{tokens.MAX_ID_CHARACTERS}}}")
_TOKEN = re.compile(rf"(?=.{{1,{tokens.MAX_CHARACTERS}}}$){re.escape(redaction.PREFIX)}[A-Za-z0-9_:-]+")


class CheckedField(serializers.Field):
    """A field for values that a function checks.

    Args:
        check: returns the value to use, or raises ValueError.
        schema: describes the values in the OpenAPI document. Query parameters are described in openapi/descriptions.py.
        options: as of DRF's fields.
    """

    def __init__(self, check: Callable[[Any], Any], schema: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.check = check
        if schema is not None:
            extend_schema_field(schema)(self)

    def to_internal_value(self, data: Any) -> Any:
        try:
            return self.check(data)
        except ValueError as error:  # InvalidMessage is one as well
            raise serializers.ValidationError(str(error)) from None


def _text(pattern: str, max_length: int, **more: str) -> dict[str, Any]:
    """Return the JSON Schema of a text that is not empty."""
    return {"type": "string", "minLength": 1, "maxLength": max_length, "pattern": pattern, **more}


def _check_data(value: Any) -> str:
    try:
        return events.encode_data(value, max_bytes=settings.MAX_MESSAGE_BYTES)
    except MessageTooLarge as error:
        raise HTTPError(413, "message-too-large", str(error)) from None


def _check_key(value: Any) -> str:
    if type(value) not in (int, str):
        raise ValueError("A user's primary key is a number or a string.")
    if not _KEY.fullmatch(text := str(value)):
        raise ValueError(f"A user's primary key has 1 to {MAX_KEY_CHARACTERS} characters, without NUL.")
    return text


def _check_token(value: Any) -> str:
    if isinstance(value, str) and (_TOKEN.fullmatch(value) or _TOKEN_ID.fullmatch(value)):
        return value
    raise ValueError(
        f"Send a signed token, {redaction.PREFIX}…, or a token's id, which the response that issued it contains."
    )


def _check_seconds(value: Any) -> float:
    limit = settings.MAX_TOKEN_SECONDS
    if type(value) not in (int, float) or not 1 <= value <= limit:
        raise ValueError(f"A token lives for 1 to {limit:g} seconds (STREAMS['MAX_TOKEN_SECONDS']).")
    return float(value)


CHANNEL = _text(
    rf"^[A-Za-z0-9._-]{{1,{events.CHANNEL_MAX_LENGTH}}}$", max_length=events.CHANNEL_MAX_LENGTH, example="news"
)
ChannelField = partial(CheckedField, events.validate_channel, CHANNEL)

EventTypeField = partial(
    CheckedField,
    events.validate_event_type,
    _text(
        r"^(?!stream-)[^\r\n\u0000]+$", max_length=events.EVENT_TYPE_MAX_LENGTH, default="message", example="message"
    ),
    required=False,
    default="message",
    help_text="The event's type, for addEventListener().",
)

IdempotencyKeyField = partial(
    CheckedField,
    events.validate_idempotency_key,
    _text(r"^[^\u0000]+$", max_length=events.IDEMPOTENCY_KEY_MAX_LENGTH, example="order-17-paid"),
)


class DataField(CheckedField):
    """A message's data, converted to the text that streams send."""

    def __init__(self) -> None:
        text = "Any JSON. A string is sent as it is, anything else as JSON. A string cannot contain NUL."
        # In JSON Schema, a pattern applies to strings only.
        super().__init__(_check_data, {"pattern": r"^[^\u0000]*$", "description": text})

    def validate_empty_values(self, data: Any) -> tuple[bool, Any]:
        # DRF would refuse null, which is valid JSON.
        return (False, None) if data is None else super().validate_empty_values(data)


UserKeyField = partial(
    CheckedField,
    _check_key,
    {"oneOf": [{"type": "integer"}, _text(r"^[^\u0000]+$", max_length=MAX_KEY_CHARACTERS)], "example": 7},
)

# A signed token or a token's id.
TokenTextField = partial(
    CheckedField,
    _check_token,
    {
        "oneOf": [
            {"type": "string", "pattern": rf"^[A-Za-z0-9_-]{{1,{tokens.MAX_ID_CHARACTERS}}}$"},
            {"type": "string", "pattern": r"^streams\.[A-Za-z0-9_:-]+$", "maxLength": tokens.MAX_CHARACTERS},
        ],
        "example": "streams.eyJpIjoi…",
    },
)

SecondsField = partial(CheckedField, _check_seconds, {"type": "number", "minimum": 1, "example": 600})


class PatternsField(serializers.ListField):
    """The channels and patterns of a token. In a pattern, * matches any characters."""

    child = CheckedField(
        tokens.validate_pattern,
        _text(
            rf"^[A-Za-z0-9._*-]{{1,{events.CHANNEL_MAX_LENGTH}}}$",
            max_length=events.CHANNEL_MAX_LENGTH,
            example="score.*",
        ),
    )

    def to_internal_value(self, data: Any) -> Any:
        # Checked before the items, because each invalid item would add an error.
        if isinstance(data, list) and len(data) > (limit := settings.MAX_CHANNELS_PER_STREAM):
            raise serializers.ValidationError(
                f"A token names at most {limit} channels (STREAMS['MAX_CHANNELS_PER_STREAM']); got {len(data)}."
            )
        return super().to_internal_value(data)


# --- In queries, where every value is a string ------------------------------------------------------------------------


def _check_position(value: str) -> int:
    if not is_position(value):
        raise ValueError(f"A position is a whole number of at most {MAX_POSITION_DIGITS} digits.")
    return int(value)


def _check_limit(value: str) -> int:
    limit = log.PAGE_MESSAGES
    if not is_position(value) or not 1 <= int(value) <= limit:
        raise ValueError(f"limit is a whole number from 1 to {limit}.")
    return int(value)


PositionField = partial(CheckedField, _check_position, required=False, default=None)
LimitField = partial(CheckedField, _check_limit, required=False, default=100)

# A channel's name, the beginning of one, or an empty string.
NamePartField = partial(CheckedField, lambda text: text and events.validate_channel(text), required=False, default="")
