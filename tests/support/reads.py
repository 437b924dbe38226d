"""Reads of the log that only tests make."""

from __future__ import annotations

from streams import log
from streams.protocol.sse import StoredEvent


def tail(after: int) -> tuple[int, list[StoredEvent]]:
    """Number the waiting messages. Return the head, and the oldest messages above `after`, up to one page."""
    newest = log.current_head()
    return newest, log.between(after, newest)
