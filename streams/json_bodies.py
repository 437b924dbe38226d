"""Rules for the JSON that clients send to the HTTP API and to the relay. No I/O."""

from __future__ import annotations

import math

# A body of this size takes a few milliseconds to parse, whatever it contains.
SMALL_BODY_BYTES = 65_536

# In a larger body the structural characters are counted before it is parsed, because each list, object or number takes
# time and memory that a text of the same length does not take. The limit is one for so many bytes of the largest body.
STRUCTURE = b"[{,:"
BYTES_PER_STRUCTURE = 5


def too_many_values(body: bytes, most_bytes: int, setting: str) -> str | None:
    """Return the error for a body with too many lists and values, or None.

    Args:
        body: the body, which was not parsed yet.
        most_bytes: the size of the largest body that is accepted.
        setting: the key of STREAMS that sets it.
    """
    most = most_bytes // BYTES_PER_STRUCTURE
    if len(body) <= SMALL_BODY_BYTES or (count := sum(map(body.count, STRUCTURE))) <= most:
        return None
    return (
        f"A request of more than {SMALL_BODY_BYTES} bytes has at most {most} of the characters [ {{ , and : "
        f"(one for every {BYTES_PER_STRUCTURE} bytes of STREAMS[{setting!r}]); got {count}. Send less at once."
    )


def refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's parser accepts. For `parse_constant` of json.loads()."""
    raise ValueError(f"{name} is not a JSON value")


def finite(digits: str) -> float:
    """Return the number, or raise ValueError if a float cannot hold it. For `parse_float` of json.loads()."""
    if math.isinf(number := float(digits)):
        raise ValueError(f"{digits[:40]} is larger than any number here")
    return number
