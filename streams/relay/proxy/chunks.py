"""The chunks of an upstream's streamed answer: the events of OpenAI's protocol. No I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Chunk:
    """An event of an answer.

    `text` and `refusal` are the texts that it adds to the first choice. `calls_tools`: the first choice
    calls a tool. `is_empty`: it has no choice, as the event with the usage.
    """

    data: str
    event: str = "message"
    text: str = ""
    refusal: str = ""
    calls_tools: bool = False
    is_empty: bool = False


def first_choice(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the choice with index 0. In DashScope's own protocol, the choices are inside of `output`."""
    output = body.get("output")
    choices = body.get("choices") or (output.get("choices") if isinstance(output, dict) else None)
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and not choice.get("index"):
            return choice
    return None


def parse_object(text: str) -> dict[str, Any]:
    """Return the JSON object in `text`, or {}. NaN is allowed, because only some of the values are read."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
