"""Record the usage of answers: tokens and time. Only this module writes the table."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from django.contrib.auth import get_user_model
from django.db import router

from streams.relay.models import Usage
from streams.runtime import executor
from streams.runtime.executor import database
from streams.runtime.tasks import spawn

MAX_COUNTS = 32
MAX_NAME_CHARACTERS = 64

logger = logging.getLogger("streams.relay")


def record(*, usage: Mapping[str, Any] | None, chunks: int, **row: Any) -> None:
    """Record the usage of one answer. Uses the ORM, in the caller's transaction if there is one.

    `usage` is the upstream's own report at the end of the answer. If it is None, `chunks` is recorded as the number of
    the answer's tokens. `row` has the other fields of Usage: `user_id`, `caller`, `upstream`, `model`, `outcome`,
    `seconds` and, if the answer was generated, `generation`.
    """
    Usage.objects.using(database()).create(**_counts(usage, chunks), **row)


def record_soon(**answer: Any) -> asyncio.Task[None]:
    """Call record() in a new task, because the caller's task might be cancelled. Database errors are only logged."""
    return spawn(_record(answer), finish=True)


async def _record(answer: dict[str, Any]) -> None:
    try:
        # Not in a thread for reads, because it can wait for a lock.
        await executor.run(_record_now, answer, pool=executor.WRITING)
    except Exception:
        logger.exception("Could not record the usage of an answer: %s.", answer)


def _record_now(answer: dict[str, Any]) -> None:
    user_id = answer["user_id"]
    if user_id is not None and not user_exists(user_id):  # deleted while the answer arrived
        answer = {**answer, "user_id": None, "caller": ""}
    record(**answer)


def user_exists(user_pk: Any) -> bool:
    """Return True if the user was not deleted. Does not read a replica, which can be behind."""
    model = get_user_model()
    return model._base_manager.using(router.db_for_write(model)).filter(pk=user_pk).exists()


def improve(generation: str, usage: Mapping[str, Any] | None, chunks: int, seconds: float) -> bool:
    """Correct the estimated record of a generation that was ended from outside of its worker. See record().

    Return True if there is a record of the generation.
    """
    recorded = Usage.objects.using(database()).filter(generation=generation)
    recorded.filter(is_estimated=True).update(**_counts(usage, chunks), seconds=seconds)
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


def _counts(usage: Mapping[str, Any] | None, chunks: int) -> dict[str, Any]:
    counts = {"completion_tokens": chunks} if usage is None else usage
    tokens = {name: _tokens(counts.get(name)) for name in ("prompt_tokens", "completion_tokens")}
    return {**tokens, "is_estimated": usage is None}


def _tokens(count: object) -> int | None:
    """Return `count` if it is a valid number of tokens, else None."""
    whole = isinstance(count, int) and not isinstance(count, bool)
    return count if whole and 0 <= count < 2**63 else None  # type: ignore[operator, return-value]
