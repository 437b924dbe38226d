"""Hide secrets of this site that an upstream repeats in its JSON, also if they are written with escapes. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

Hide = Callable[[str], str]

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)


def hidden(value: Any, hide: Hide) -> Any:
    """Return parsed JSON with the secrets in all of its texts hidden."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, list):
        return [hidden(each, hide) for each in value]
    if isinstance(value, dict):
        return {hide(key): hidden(each, hide) for key, each in value.items()}
    return value


def hide_in_event(data: str, chunk: dict[str, Any], hide: Hide) -> tuple[str, dict[str, Any]]:
    """Return an event's data, and the object that it was parsed to, without secrets that are written with escapes.

    Raises RecursionError if the object is nested too deeply.
    """
    if "\\" not in data:
        return data, chunk
    if (shown := hidden(chunk, hide)) != chunk:
        return json.dumps(shown), shown  # in ASCII, which can represent lone surrogates
    if hide(plain := _unescaped(data)) != plain:
        # The secret is in a duplicate key, which the parser dropped, or `data` is not a JSON object.
        return json.dumps(chunk) if chunk else hide(plain).encode(errors="replace").decode(), chunk
    return data, chunk


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else match[2], text)
