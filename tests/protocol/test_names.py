"""The rules for channel names, event types and idempotency keys, and the errors that name them, without a database."""

from __future__ import annotations

import pytest
from django.utils.functional import lazystr
from hypothesis import given
from hypothesis import strategies as st

from streams.exceptions import InvalidChannel, InvalidEventType, InvalidMessage
from streams.protocol import events
from streams.protocol.events import (
    validate_channel,
    validate_channels,
    validate_event_type,
    validate_idempotency_key,
)
from tests.protocol.support import CHANNEL_RULE, refusal_of


@pytest.mark.parametrize("channel", ["a", "news", "user.7", "A-Z_0.9", "...", "-", "_", "0", "x" * 99])
def test_valid_channel_is_unchanged(channel: str) -> None:
    assert validate_channel(channel) == channel


@pytest.mark.parametrize(
    "channel",
    [
        "",
        " ",
        "news room",
        "news\n",
        "\nnews",
        "news\r",
        "news\0",
        "a/b",
        "a%2Fb",
        "a:b",
        "a*",
        "naïve",
        "n\N{CYRILLIC SMALL LETTER IE}ws",
        "news\N{ARABIC-INDIC DIGIT THREE}",
        "\N{FULLWIDTH LATIN SMALL LETTER N}ews",
        "news\N{ZERO WIDTH SPACE}",
        "a\N{ONE DOT LEADER}b",
        "a\N{HYPHEN}b",
        "a\N{FULLWIDTH LOW LINE}b",
        "\N{LATIN SMALL LETTER LONG S}",  # equals s if case is ignored
        "\N{KELVIN SIGN}",  # equals k if case is ignored
        "\ud800",
        "x" * 100,
        b"news",
        7,
        None,
        ["news"],
        lazystr("news"),
    ],
    ids=ascii,
)
def test_invalid_channel_is_refused(channel: object) -> None:
    """The error names the rule and the value."""
    with pytest.raises(InvalidChannel) as error:
        validate_channel(channel)
    assert refusal_of(error) == CHANNEL_RULE.format(repr(channel))


def test_error_shortens_a_long_name() -> None:
    with pytest.raises(InvalidChannel) as error:
        validate_channel("x" * 1_000_000)
    assert refusal_of(error) == CHANNEL_RULE.format("'" + "x" * 116 + "…")


@given(st.text(max_size=110))
def test_any_text_is_judged_by_rule(text: str) -> None:
    allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
    try:
        taken = validate_channel(text) == text
    except InvalidChannel:
        taken = False
    assert taken == (1 <= len(text) <= 99 and all(character in allowed for character in text))


def test_repeated_channels_keep_first_place() -> None:
    assert validate_channels(["b", "a", "b", "c", "a"]) == ("b", "a", "c")
    assert validate_channels(name for name in ("x", "y")) == ("x", "y")
    assert validate_channels([]) == ()


def test_one_bad_channel_refuses_all() -> None:
    with pytest.raises(InvalidChannel, match="got 'b c'"):
        validate_channels(["a", "b c"])


def test_string_is_no_list_of_channels() -> None:
    """Otherwise each of its letters would be a channel."""
    with pytest.raises(InvalidChannel, match="'news'"):
        validate_channels("news")


@pytest.mark.parametrize("event", ["message", "a", "score changed", "é", "😀", "x" * 99, "streams", "Stream-x", "a:b"])
def test_valid_event_type_is_unchanged(event: str) -> None:
    assert validate_event_type(event) == event


LENGTH = "An event's type is a text of 1 to 99 characters (the default is 'message')"
ONE_LINE = "An event's type is one line without CR, LF and NUL"
RESERVED = "Types that begin with 'stream-' are the stream's own; choose another name"
SURROGATE = "An event's type is Unicode text, and a lone surrogate is none"


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        ("", LENGTH),
        ("x" * 100, LENGTH),
        (None, LENGTH),
        (b"message", LENGTH),
        ("a\nb", ONE_LINE),
        ("a\r", ONE_LINE),
        ("a\0", ONE_LINE),
        ("stream-", RESERVED),
        ("stream-reset", RESERVED),
        ("a\udc00", SURROGATE),
    ],
)
def test_invalid_event_type_is_refused(event: object, rule: str) -> None:
    """The error names the rule and the value."""
    with pytest.raises(InvalidEventType) as error:
        validate_event_type(event)
    assert refusal_of(error) == f"{rule}; got {event!r}."


@pytest.mark.parametrize("key", [None, "a", " ", "é", "x" * 255, "line\nline"])
def test_valid_idempotency_key_is_unchanged(key: str | None) -> None:
    assert validate_idempotency_key(key) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "a\0", "\ud800", 7, b"a"])
def test_invalid_idempotency_key_is_refused(key: object) -> None:
    with pytest.raises(InvalidMessage) as error:
        validate_idempotency_key(key)
    shown = repr(key) if len(repr(key)) <= 120 else repr(key)[:117] + "…"
    assert refusal_of(error) == f"An idempotency key is a text of 1 to 255 characters without NUL; got {shown}."


def test_limits_match_the_columns() -> None:
    from streams.models import Channel, Message

    fields = {field.name: field.max_length for field in Message._meta.fields if field.max_length}  # type: ignore[attr-defined]
    assert fields["channel"] == events.CHANNEL_MAX_LENGTH == Channel._meta.get_field("name").max_length
    assert fields["event"] == events.EVENT_TYPE_MAX_LENGTH
    assert fields["idempotency_key"] == events.IDEMPOTENCY_KEY_MAX_LENGTH
