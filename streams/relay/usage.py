"""What answers have cost: one row for each, whole or cut off. Only this module writes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from streams import threads
from streams.relay.models import Usage

logger = logging.getLogger("streams.relay")

# What the column holds.
MAX_TOKENS = 2**63 - 1

_writing: set[asyncio.Task[None]] = set()  # a loop keeps only a weak reference to its tasks


def record_usage(
    *,
    user: Any,
    caller: str,
    upstream: str,
    model: str,
    outcome: Usage.Outcome,
    seconds: float,
    usage: Mapping[str, Any] | None,
    pieces: int,
    generation: str = "",
) -> asyncio.Task[None]:
    """Have what an answer has cost written down, by a task of its own: whoever asks may be about to be cancelled.

    `usage` is what the upstream said of it. Where it said nothing, the answer's `pieces` are counted as tokens, and
    the row is marked as estimated. A database that fails is logged, and spoils nothing.
    """
    completion = _tokens(usage, "completion_tokens", "output_tokens")
    row = Usage(
        user_id=None if user is None else user.pk,
        caller=caller[:255],
        upstream=upstream[:99],
        model=model[:255],
        generation=generation,
        outcome=outcome,
        prompt_tokens=_tokens(usage, "prompt_tokens", "input_tokens"),
        completion_tokens=pieces if completion is None else completion,
        is_estimated=completion is None,
        seconds=seconds,
    )
    task = asyncio.get_running_loop().create_task(_write(row))
    _writing.add(task)
    task.add_done_callback(_writing.discard)
    return task


async def _write(row: Usage) -> None:
    try:
        # Not by one of the threads that read: it may have to wait for a lock.
        await threads.run(lambda: row.save(using=threads.database()), pool=threads.WRITING)
    except Exception:
        logger.exception("What an answer of %s has cost could not be written down: %s.", row.model, row)


def _tokens(usage: Mapping[str, Any] | None, *names: str) -> int | None:
    """The first of these numbers that there is; upstreams are strangers, and not all of them give numbers."""
    for name in names:
        value = (usage or {}).get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS:
            return value
    return None
