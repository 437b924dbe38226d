"""What answers have cost, for the record: the only module that writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streams.relay.models import Usage
from streams.threads import database


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


def improve(generation: str, usage: Mapping[str, Any] | None, pieces: int, seconds: float) -> None:
    """Correct what somebody else has recorded of a generation, who could not count as its worker can."""
    told = usage if usage is not None else {"completion_tokens": pieces}
    Usage.objects.using(database()).filter(generation=generation, is_estimated=True).update(
        prompt_tokens=_tokens(told.get("prompt_tokens")),
        completion_tokens=_tokens(told.get("completion_tokens")),
        is_estimated=usage is None,
        seconds=seconds,
    )


def _tokens(count: object) -> int | None:
    """A number of tokens, from an upstream that may say anything."""
    whole = isinstance(count, int) and not isinstance(count, bool)
    return count if whole and 0 <= count < 2**63 else None  # type: ignore[operator, return-value]
