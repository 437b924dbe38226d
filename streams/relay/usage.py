"""Record the usage of answers: tokens and time. Only this module writes the table."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from django.contrib.auth import get_user_model

from streams.relay.models import Usage
from streams.runtime import executor
from streams.runtime.executor import database, run
from streams.runtime.tasks import spawn

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
    chunks: int,
    seconds: float,
    generation: str = "",
) -> None:
    """Record the usage of one answer. Uses the ORM, in the caller's transaction if there is one.

    `usage` is the upstream's own report at the end of the answer. If it is None, `chunks` is recorded as the number of
    the answer's tokens.
    """
    counts = usage if usage is not None else {"completion_tokens": chunks}
    Usage.objects.using(database()).create(
        user_id=user_id,
        caller=caller,
        upstream=upstream,
        model=model,
        generation=generation,
        outcome=outcome,
        prompt_tokens=_tokens(counts.get("prompt_tokens")),
        completion_tokens=_tokens(counts.get("completion_tokens")),
        is_estimated=usage is None,
        seconds=seconds,
    )


def record_soon(**answer: Any) -> asyncio.Task[None]:
    """Call record() in a new task, because the caller's task might be cancelled. Database errors are only logged."""
    return spawn(_record(answer), finish=True)


async def _record(answer: dict[str, Any]) -> None:
    try:
        # Not in a thread for reads, because it can wait for a lock.
        await run(lambda: record(**_without_deleted_user(answer)), pool=executor.WRITING)
    except Exception:
        logger.exception("Could not record the usage of an answer: %s.", answer)


def _without_deleted_user(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of record(), without the user if the user was deleted while the answer arrived."""
    user_id = answer["user_id"]
    if user_id is None or get_user_model()._base_manager.filter(pk=user_id).exists():
        return answer
    return {**answer, "user_id": None, "caller": ""}


def improve(generation: str, usage: Mapping[str, Any] | None, chunks: int, seconds: float) -> bool:
    """Correct the estimated record of a generation that was ended from outside of its worker. See record().

    Return True if there is a record of the generation.
    """
    counts = usage if usage is not None else {"completion_tokens": chunks}
    recorded = Usage.objects.using(database()).filter(generation=generation)
    recorded.filter(is_estimated=True).update(
        prompt_tokens=_tokens(counts.get("prompt_tokens")),
        completion_tokens=_tokens(counts.get("completion_tokens")),
        is_estimated=usage is None,
        seconds=seconds,
    )
    return recorded.exists()


def forget_user(user_pk: Any) -> None:
    """Remove a deleted user from the records. `caller` contains the user's key as well."""
    Usage.objects.using(database()).filter(user=user_pk).update(user=None, caller="")


def counted(usage: object) -> dict[str, Any] | None:
    """Return the numbers in an upstream's usage, also those in its details, or None if there are none.

    Everything else is dropped, because an upstream can send any data of any size.
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
    """Return `count` if it is a valid number of tokens, else None."""
    whole = isinstance(count, int) and not isinstance(count, bool)
    return count if whole and 0 <= count < 2**63 else None  # type: ignore[operator, return-value]
