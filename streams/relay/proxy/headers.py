"""Which of an upstream's headers the client sees: few, by name. What else there is concerns the upstream and us."""

from __future__ import annotations

from collections.abc import Iterable

# When to try again, and what to tell the upstream's support.
NAMES = frozenset(
    ["retry-after", "retry-after-ms", "x-should-retry", "openai-processing-ms", "openai-version", "openai-model"]
)
PREFIXES = ("x-ratelimit-", "ratelimit-", "anthropic-ratelimit-")
SUFFIX = "request-id"  # x-request-id, request-id, x-dashscope-request-id …

MAX_VALUE_CHARACTERS = 1024


def passed_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that pass, in order. Not one that `Connection` names: it was meant for us (RFC 9110, section 7.6.1)."""
    headers = list(headers)
    for_us = {name.strip().lower() for key, value in headers if key == "connection" for name in value.split(",")}
    return [(name, value) for name, value in headers if _passes(name, value) and name not in for_us]


def _passes(name: str, value: str) -> bool:
    known = name in NAMES or name.startswith(PREFIXES) or name.endswith(SUFFIX)
    return known and len(value) <= MAX_VALUE_CHARACTERS and value.isascii() and value.isprintable()
