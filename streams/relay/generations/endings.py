"""The data that a worker stores: batches of chunks, and how an answer ended. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models.functions import Now

from streams.events import NewMessage, check, encode_data
from streams.relay.generations.chunks import END_EVENT
from streams.relay.models import Generation

State = Generation.State


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended: a final state, and what is told of it."""

    state: State
    finish_reason: str = ""
    error_code: str = ""
    error_message: str = ""
    usage: Mapping[str, Any] | None = None
    tokens: int = 0  # pieces that the upstream sent, which stand in for tokens where it did not count them
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """What a worker has of one generation: the pieces from `number` on, which are not stored, and the end.

    `position` is that of the newest piece before these, which write() has told. `text` is what the row is to have: the
    pieces before these, or, with an ending, all there are; None where the row may stay behind.
    """

    id: str
    number: int
    pieces: tuple[str, ...] = ()
    position: int = 0
    text: str | None = None
    ending: Ending | None = None


def messages_of(batch: Batch) -> list[NewMessage]:
    channel = Generation(pk=batch.id).channel
    messages = [
        check(NewMessage(channel, {"n": batch.number + n, "text": text})) for n, text in enumerate(batch.pieces)
    ]
    if batch.ending is not None:  # of any size: an end must be told
        messages.append(NewMessage(channel, encode_data(_told(batch.ending), max_bytes=None), END_EVENT))
    return messages


def _told(ending: Ending) -> dict[str, Any]:
    """What the channel's last message says."""
    error = {"code": ending.error_code, "message": ending.error_message} if ending.error_code else None
    return {
        "state": ending.state.value,
        "finish_reason": ending.finish_reason or None,
        "usage": ending.usage,
        "error": error,
    }


def told(generation: Generation) -> dict[str, Any]:
    """What the last message of a generation that has ended said."""
    return _told(
        Ending(
            State(generation.state),
            generation.finish_reason,
            generation.error_code,
            generation.error_message,
            generation.usage,
        )
    )


def fields_of(ending: Ending, position: int) -> dict[str, Any]:
    """The fields of a generation that has ended."""
    return {
        "state": ending.state,
        "ended_at": Now(),
        "end_position": position,
        "lease_until": None,
        "finish_reason": ending.finish_reason,
        "error_code": ending.error_code,
        "error_message": ending.error_message,
        "usage": ending.usage,
    }
