"""Keeping signed tokens out of logs. A stream's URL may hold one, and servers log URLs.

LOGGING = {
    "filters": {"tokens": {"()": "streams.redaction.HideTokens"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["tokens"]}},
}
"""

from __future__ import annotations

import copy
import logging
import re
from typing import Any

# By what a token is known from whatever else a URL or an Authorization header may hold, which is not ours to judge.
PREFIX = "streams."

# The query's name for a token.
PARAMETER = "token"

HIDDEN = "…"

# As they are, percent-encoded, or that again, as within a redirect's `?next=`.
_COLON, _EQUALS, _QUESTION, _AMPERSAND = (
    rf"(?:{character}|%(?:25)*{number})" for character, number in ((":", "3A"), ("=", "3D"), (r"\?", "3F"), ("&", "26"))
)

# A token wherever it stands, and whatever else was sent in a token's place: it may be one with a character lost.
_TOKEN = re.compile(rf"(?i)(?:(?<![A-Z0-9_-])|(?<=%3D)){re.escape(PREFIX)}[A-Z0-9_-]{{8,}}(?:{_COLON}[A-Z0-9_-]+)+")
_PARAMETER = re.compile(rf"(?i)((?:^|[;\s\"']|{_QUESTION}|{_AMPERSAND}){PARAMETER}{_EQUALS})[^&;#\s\"']+")

# What logs requests: Django, and the servers' access logs. They log straight to these.
LOGGERS = (
    "django.request",
    "django.server",
    "django.channels.server",
    "uvicorn.access",
    "uvicorn.error",
    "gunicorn.access",
    "hypercorn.access",
    "granian.access",
    "_granian.access",
    "aiohttp.access",
)


def hide(text: str) -> str:
    """`text` without the tokens in it."""
    return _PARAMETER.sub(rf"\1{HIDDEN}", _TOKEN.sub(HIDDEN, text))


class HideTokens(logging.Filter):
    """A filter for handlers and loggers. It lets all records pass, without the tokens in their texts and arguments.

    The text of an exception is not the record's, but made by a formatter; see docs/operations/security.md.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.args:
            record.msg = _hide_in(record.msg)
        elif isinstance(record.msg, str):
            # Not what stands in a token's place: that may be the place of an argument.
            record.msg = _TOKEN.sub(HIDDEN, record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(_hide_in(value) for value in record.args)
        elif isinstance(record.args, dict):
            record.args = copy.copy(record.args)  # of its own kind: those of servers have ways of their own
            for name, value in tuple(record.args.items()):
                record.args[name] = _hide_in(value)
        return True


def _hide_in(value: Any) -> Any:
    """A formatter may use an argument by its kind, as a number: only texts are changed, and what holds one."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, bytes):
        return hide(value.decode(errors="replace")).encode()
    if value is None or isinstance(value, int | float):
        return value
    try:
        text = str(value)
    except Exception:  # logging's own to tell of, where it comes to it
        return value
    return value if (hidden := hide(text)) == text else hidden


def install() -> None:
    """Put the filter before the access logs of all servers that use Python's logging."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, HideTokens) for known in logger.filters):
            logger.addFilter(HideTokens())
