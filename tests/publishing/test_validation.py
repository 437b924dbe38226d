"""The channels, event types, data and keys that publish refuses, and the errors that it raises."""

from __future__ import annotations

from typing import Any

import pytest

from streams import publish
from streams.exceptions import InvalidChannel, InvalidData, InvalidEventType, InvalidMessage
from streams.models import Message
from tests.publishing.support import stored

pytestmark = pytest.mark.django_db(transaction=True)


# --- Channels and event types -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "shown"),
    [
        ("news room", "'news room'"),
        ("", "''"),
        ("x" * 100, "xxx"),
        ("ünews", "'ünews'"),
        ("news/1", "'news/1'"),
        ("news\n", r"'news\n'"),
        (7, "7"),
        (None, "None"),
    ],
)
def test_invalid_channel_is_refused(channel: Any, shown: str) -> None:
    with pytest.raises(InvalidChannel) as caught:
        publish(channel, "x")
    assert str(caught.value).startswith("Channel names use A-Z a-z 0-9 . _ - and at most 99 characters; got ")
    assert shown in str(caught.value)
    assert len(str(caught.value)) < 300
    assert stored() == []


@pytest.mark.parametrize("channel", ["a", "x" * 99, "A-Z_a.z-0..9", "-", "."])
def test_valid_channel_is_accepted(channel: str) -> None:
    assert publish(channel, "x").channel == channel


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        ("a\nb", r"one line without CR, LF and NUL; got 'a\nb'"),
        ("a\rb", r"one line without CR, LF and NUL; got 'a\rb'"),
        ("a\0", r"one line without CR, LF and NUL; got 'a\x00'"),
        (
            "stream-reset",
            "Types that begin with 'stream-' are the stream's own; choose another name; got 'stream-reset'",
        ),
        ("", "1 to 99 characters (the default is 'message'); got ''"),
        ("x" * 100, "1 to 99 characters"),
        (None, "1 to 99 characters (the default is 'message'); got None"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_invalid_event_type_is_refused(event: Any, rule: str) -> None:
    with pytest.raises(InvalidEventType) as caught:
        publish("news", "x", event=event)
    assert rule in str(caught.value)
    assert stored() == []


@pytest.mark.parametrize("event", ["x" * 99, "mit Leerzeichen", "ünï 🎉", "streams", "Stream-x"])
def test_valid_event_type_is_accepted(event: str) -> None:
    publish("news", "x", event=event)
    assert Message.objects.get().event == event


# --- Data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("a\0b", ["NUL (U+0000)", "PostgreSQL cannot store it", "Remove it, or send it as JSON"]),
        ("ab\ud83d", ["lone surrogate (U+D83D) at character 2", "UTF-8 cannot carry", "errors='replace'"]),
        ({"a": "\udc00"}, ["lone surrogate (U+DC00) at character 6", "errors='replace'"]),
        (b"bytes", ["Data is a str, or what DjangoJSONEncoder can make JSON of", "bytes"]),
        ({1, 2}, ["DjangoJSONEncoder", "set"]),
        (float("nan"), ["DjangoJSONEncoder", "float"]),
    ],
)
def test_invalid_data_is_refused(data: Any, says: list[str]) -> None:
    with pytest.raises(InvalidData) as caught:
        publish("news", data)
    for part in says:
        assert part in str(caught.value)
    assert stored() == []


def test_circular_data_is_refused() -> None:
    data: list[Any] = []
    data.append(data)
    with pytest.raises(InvalidData, match="Circular"):
        publish("news", data)


def test_size_is_limited_in_bytes(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "MAX_MESSAGE_BYTES": 10}
    assert publish("news", "ü" * 5).size == 10
    with pytest.raises(InvalidData) as caught:
        publish("news", "ü" * 5 + "x")
    assert str(caught.value) == (
        "Data is at most 10 bytes in UTF-8 (STREAMS['MAX_MESSAGE_BYTES']); got 11. "
        "Publish a reference to the large thing, or raise the setting."
    )
    assert len(stored()) == 1


def test_default_limit_is_exact() -> None:
    data = "🎉" * (262_144 // 4)
    publish("news", data)
    assert Message.objects.get().data == data
    with pytest.raises(InvalidData, match="got 262145"):
        publish("news", data + "x")


# --- Keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "x" * 256, "nul \0", "\ud800", 7])
def test_invalid_key_is_refused(key: Any) -> None:
    with pytest.raises(InvalidMessage) as caught:
        publish("news", "x", idempotency_key=key)
    assert str(caught.value).startswith("An idempotency key is a text of 1 to 255 characters without NUL; got ")
    assert stored() == []


def test_longest_values_are_accepted() -> None:
    for _ in range(2):
        message = publish("x" * 99, "x", event="🎉" * 99, idempotency_key="🎉" * 255)
        assert message.position == 1
