"""The machine-readable fields of log records: `logger.info("…", extra=fields(event="stream-cut", reason="slow"))`.

A formatter for JSON finds them as attributes of the record. docs/operations/monitoring.md lists all of them. They hold
no tokens, keys, addresses or users, and no text that a client has chosen, except for names of channels.
"""

from __future__ import annotations

from typing import TypedDict, Unpack

PREFIX = "streams_"


class Fields(TypedDict, total=False):
    """All fields, without their prefix."""

    event: str
    reason: str
    code: str
    status: int
    channels: list[str]
    messages: int
    seconds: float
    outage: str
    broadcast: int
    generation: str
    upstream: str


def fields(**values: Unpack[Fields]) -> dict[str, object]:
    """Return the argument `extra` of a logger's methods. The prefix keeps the names apart from those of other apps."""
    return {PREFIX + name: value for name, value in values.items()}
