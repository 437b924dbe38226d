"""Select the upstream's headers that are passed to the client. All others are dropped."""

from __future__ import annotations

from collections.abc import Iterable

# They tell a client when to try again, and identify the request for the upstream's support.
NAMES = frozenset(
    ["retry-after", "retry-after-ms", "x-should-retry", "openai-processing-ms", "openai-version", "openai-model"]
)
PREFIXES = ("x-ratelimit-", "ratelimit-", "anthropic-ratelimit-")
SUFFIX = "request-id"  # x-request-id, request-id, x-dashscope-request-id …

MAX_VALUE_CHARACTERS = 1024


def passed_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers to pass, in order, without those that `Connection` names (RFC 9110, section 7.6.1)."""
    headers = list(headers)
    for_us = {name.strip().lower() for key, value in headers if key == "connection" for name in value.split(",")}
    return [(name, value) for name, value in headers if _passes(name, value) and name not in for_us]


def _passes(name: str, value: str) -> bool:
    known = name in NAMES or name.startswith(PREFIXES) or name.endswith(SUFFIX)
    return known and len(value) <= MAX_VALUE_CHARACTERS and value.isascii() and value.isprintable()
