"""Helpers for several tests of the log."""

from __future__ import annotations

import datetime

from django.utils import timezone

from streams import NewMessage, log, publish_many
from streams.models import ChannelSettings, Message
from streams.protocol.sse import StoredEvent


def appended(*texts: str, channel: str = "news") -> list[Message]:
    """Append messages that have no positions yet."""
    return log.append([NewMessage(channel, text) for text in texts])


def positions(messages: list[StoredEvent]) -> list[int]:
    return [message.position for message in messages]


def left() -> list[int]:
    """Return the positions of the messages that are left."""
    return list(Message.objects.order_by("position").values_list("position", flat=True))


def age(seconds: float, *positions: int) -> None:
    """Date messages that many seconds back."""
    Message.objects.filter(position__in=positions).update(
        created_at=timezone.now() - datetime.timedelta(seconds=seconds)
    )


def publish_some(count: int, channels: str = "a", data: str = "x") -> None:
    """Publish messages to the channels, one letter each, in turn."""
    publish_many([NewMessage(channels[n % len(channels)], data) for n in range(count)])


def settle(channel: str, seconds: int | None = None, messages: int | None = None) -> None:
    """Give a channel its own retention settings."""
    ChannelSettings.objects.create(channel=channel, retention_seconds=seconds, retention_messages=messages)
