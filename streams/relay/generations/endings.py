"""The data that a worker stores: batches of chunks, and how an answer ended. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import F

from streams.protocol.events import NewMessage, check, encode_data
from streams.relay.generations.chunks import END_EVENT
from streams.relay.models import Generation
from streams.runtime import clock

State = Generation.State


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended: a final state, and the details for clients."""

    state: State
    finish_reason: str = ""
    error_code: str = ""
    error_message: str = ""
    usage: Mapping[str, Any] | None = None
    tokens: int = 0  # chunks that the upstream sent; used as the number of tokens if it did not report one
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """The part of one generation that its worker stores next: the chunks from `number` on, and perhaps the ending.

    `position` is the position of the last chunk before these, as write() returned it. `text` is the new text of the
    row: that of the chunks before these or, with an ending, of all chunks. None leaves the row as it is.
    """

    id: str
    number: int
    chunks: tuple[str, ...] = ()
    position: int = 0
    text: str | None = None
    ending: Ending | None = None


def messages_of(batch: Batch) -> list[NewMessage]:
    channel = Generation(pk=batch.id).channel
    messages = [
        check(NewMessage(channel, {"n": batch.number + n, "text": text})) for n, text in enumerate(batch.chunks)
    ]
    if batch.ending is not None:  # without a limit of its size: the end must not be lost
        messages.append(NewMessage(channel, encode_data(end_data(batch.ending), max_bytes=None), END_EVENT))
    return messages


def end_data(ending: Ending | Generation) -> dict[str, Any]:
    """Return the state and how the answer ended, as clients get it. It is the data of the channel's last message."""
    error = {"code": ending.error_code, "message": ending.error_message} if ending.error_code else None
    return {
        "state": str(ending.state),
        "finish_reason": ending.finish_reason or None,
        "usage": ending.usage,
        "error": error,
    }


def fields_of(ending: Ending, text: str, chunks: int, position: int) -> dict[str, Any]:
    """Return the new fields of the row of a generation that ends, with its text and the position of its end."""
    return {
        "size": F("size") + len(text.encode()),
        "text": text,
        "chunks": chunks,
        "text_position": position,
        "state": ending.state,
        "ended_at": clock.stored_now(),
        "end_position": position,
        "lease_until": None,
        "finish_reason": ending.finish_reason,
        "error_code": ending.error_code,
        "error_message": ending.error_message,
        "usage": ending.usage,
    }
