"""What answers have cost, for the record: the only module that writes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from django.contrib.auth import get_user_model

from streams import threads
from streams.relay.models import Usage
from streams.runtime.tasks import spawn
from streams.threads import database, run

MAX_COUNTS = 32
MAX_NAME_CHARACTERS = 64

logger = logging.getLogger("streams.relay")


def record(
    *,
    user_id: Any,
    caller: str,
    upstream: str,
    model: str,
    outcome: str,
    usage: Mapping[str, Any] | None,
    pieces: int,
    seconds: float,
    generation: str = "",
) -> None:
    """Write down one answer. Uses the ORM, in the caller's transaction where there is one.

    `usage` is what the upstream said at the end of the answer, None where it had not; then `pieces` stands in for the
    tokens of the answer.
    """
    told = usage if usage is not None else {"completion_tokens": pieces}
    Usage.objects.using(database()).create(
        user_id=user_id,
        caller=caller,
        upstream=upstream,
        model=model,
        generation=generation,
        outcome=outcome,
        prompt_tokens=_tokens(told.get("prompt_tokens")),
        completion_tokens=_tokens(told.get("completion_tokens")),
        is_estimated=usage is None,
        seconds=seconds,
    )


def record_soon(**answer: Any) -> asyncio.Task[None]:
    """As record(), by a task of its own: whoever asks may be about to be cancelled.

    A database that fails is logged, and spoils nothing.
    """
    return spawn(_record(answer), finish=True)


async def _record(answer: dict[str, Any]) -> None:
    try:
        # Not by one of the threads that read: it may have to wait for a lock.
        await run(lambda: record(**_without_deleted_user(answer)), pool=threads.WRITING)
    except Exception:
        logger.exception("What an answer has cost could not be written down: %s.", answer)


def _without_deleted_user(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the record of an answer, without its user if that one was deleted while the answer came."""
    user_id = answer["user_id"]
    if user_id is None or get_user_model()._base_manager.filter(pk=user_id).exists():
        return answer
    return {**answer, "user_id": None, "caller": ""}


def improve(generation: str, usage: Mapping[str, Any] | None, pieces: int, seconds: float) -> bool:
    """Correct what somebody else has recorded of a generation, who could not count as its worker can.

    Whether there was such a record. See record().
    """
    told = usage if usage is not None else {"completion_tokens": pieces}
    recorded = Usage.objects.using(database()).filter(generation=generation)
    recorded.filter(is_estimated=True).update(
        prompt_tokens=_tokens(told.get("prompt_tokens")),
        completion_tokens=_tokens(told.get("completion_tokens")),
        is_estimated=usage is None,
        seconds=seconds,
    )
    return recorded.exists()


def forget_user(user_pk: Any) -> None:
    """Clear a deleted user from the record. `caller` names the user as well."""
    Usage.objects.using(database()).filter(user=user_pk).update(user=None, caller="")


def counted(usage: object) -> dict[str, Any] | None:
    """The numbers of an upstream's usage, and of the details in it; None where there are none.

    An upstream may say anything, of any size, and what it says is stored and told.
    """
    if not isinstance(usage, Mapping):
        return None
    found: dict[str, Any] = {}
    for name, value in list(usage.items())[:MAX_COUNTS]:
        if not (isinstance(name, str) and name.isidentifier() and len(name) <= MAX_NAME_CHARACTERS):
            continue
        if isinstance(value, Mapping) and name.endswith("_details"):
            details = {key: count for key, count in (counted(value) or {}).items() if not isinstance(count, dict)}
            found |= {name: details} if details else {}
        elif (count := _tokens(value)) is not None:
            found[name] = count
    return found or None


def _tokens(count: object) -> int | None:
    """A number of tokens, from an upstream that may say anything."""
    whole = isinstance(count, int) and not isinstance(count, bool)
    return count if whole and 0 <= count < 2**63 else None  # type: ignore[operator, return-value]
