"""Strict JSON (RFC 8259), and the limits for JSON bodies of the HTTP API and the relay. No I/O."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from streams.exceptions import HTTPError, InvalidJSON

# A body of this size takes a few milliseconds to parse, whatever it contains.
SMALL_BODY_BYTES = 65_536

# In a larger body the structural characters are counted before it is parsed, because each list, object or number takes
# time and memory that a text of the same length does not take. The limit is one for so many bytes of the largest body.
STRUCTURE = b"[{,:"
BYTES_PER_STRUCTURE = 5

_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|-?Infinity|NaN')


def parse_body(body: bytes, limit: int, setting: str) -> Any:
    """Return a request's body, JSON in UTF-8, as a Python value.

    Args:
        body: the body.
        limit: the size in bytes of the largest body that is accepted.
        setting: the key of STREAMS that sets the limit.

    Raises:
        HTTPError: 413 for a body with too many lists and values, 400 for one that is not JSON.
    """
    max_count = limit // BYTES_PER_STRUCTURE
    if len(body) > SMALL_BODY_BYTES and (count := sum(map(body.count, STRUCTURE))) > max_count:
        raise HTTPError(
            413,
            "too-many-values",
            f"A request of more than {SMALL_BODY_BYTES} bytes has at most {max_count} of the characters [ {{ , and : "
            f"(one for every {BYTES_PER_STRUCTURE} bytes of STREAMS[{setting!r}]); got {count}. Send less at once.",
        )
    try:
        # Decoded here, because json.loads() also accepts UTF-16, and lone surrogates in UTF-8.
        return parse_json(body.decode())
    except UnicodeDecodeError as error:
        problem = f"it is not UTF-8, at byte {error.start}"
    except InvalidJSON as error:
        problem = error.described()
    raise HTTPError(400, "invalid-json", f"The request's body is not JSON: {problem}.")


def parse_json(text: str, **hooks: Any) -> Any:
    """Return the value of a JSON text (RFC 8259). Raises InvalidJSON.

    Unlike json.loads(), it refuses NaN and Infinity, numbers that a float cannot hold, and objects with a repeated
    name. `hooks` are arguments of json.loads() that replace these rules: `parse_float`, `object_pairs_hook`.
    """
    try:
        return json.loads(
            text,
            **{"parse_float": _finite, "object_pairs_hook": _distinct, "parse_constant": _refuse_constant, **hooks},
        )
    except json.JSONDecodeError as error:
        raise InvalidJSON(error.msg, error.lineno, error.colno) from None
    except _Constant as error:
        raise InvalidJSON(f"{error} is not a JSON value", *_place_of_constant(text)) from None
    except ValueError as error:
        raise InvalidJSON(str(error)) from None
    except RecursionError:
        raise InvalidJSON("it is nested too deeply to be read; nest it less") from None


def check_json(text: str) -> None:
    """Raise InvalidJSON if a browser's JSON.parse() could not read `text`.

    Numbers of any size and repeated names are allowed, because the text is sent as it is.
    """
    parse_json(text, parse_int=str, parse_float=str, object_pairs_hook=None)


class _Constant(Exception):
    """NaN, Infinity or -Infinity, which json.loads() accepts by default."""


def _refuse_constant(name: str) -> None:
    raise _Constant(name)


def _place_of_constant(text: str) -> tuple[int, int]:
    found = next((match for match in _STRING_OR_CONSTANT.finditer(text) if not match[0].startswith('"')), None)
    offset = found.start() if found else 0
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError(f"{digits[:40]} is larger than any number here")
    return number


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"an object names {twice[:100]!r} twice, and readers differ in which of them they take")
    return found
