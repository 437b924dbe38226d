"""Reads of the log that only tests make."""

from __future__ import annotations

from streams import log
from streams.protocol.sse import StoredEvent


def tail(after: int) -> tuple[int, list[StoredEvent]]:
    """Return the head, after giving positions to what waits, and the oldest messages above `after`, at most a page."""
    newest = log.current_head()
    return newest, log.between(after, newest)
