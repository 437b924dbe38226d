"""Keep signed tokens out of logs. A stream's URL can contain a token, and servers log URLs.

LOGGING = {
    "filters": {"tokens": {"()": "streams.redaction.HideTokens"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["tokens"]}},
}
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterable
from typing import Any

# Every token begins with this, which distinguishes it from other credentials in a URL or an Authorization header.
PREFIX = "streams."

# The name of the query parameter for a token.
PARAMETER = "token"

HIDDEN = "…"

# Each character as it is, percent-encoded, or encoded several times, as within a redirect's `?next=`.
_COLON, _EQUALS, _QUESTION, _AMPERSAND = (
    rf"(?:{character}|%(?:25)*{number})" for character, number in ((":", "3A"), ("=", "3D"), (r"\?", "3F"), ("&", "26"))
)

# A token in any place; and the whole value of the query parameter, because it can be a damaged token.
_TOKEN = re.compile(rf"(?i)(?:(?<![A-Z0-9_-])|(?<=%3D)){re.escape(PREFIX)}[A-Z0-9_-]{{8,}}(?:{_COLON}[A-Z0-9_-]+)+")
_PARAMETER = re.compile(rf"(?i)((?:^|[;\s\"']|{_QUESTION}|{_AMPERSAND}){PARAMETER}{_EQUALS})[^&;#\s\"']+")

# The loggers to which Django and the servers log requests.
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
    """Return `text` with its tokens replaced."""
    return _PARAMETER.sub(rf"\1{HIDDEN}", _TOKEN.sub(HIDDEN, text))


def hide_in(value: Any) -> Any:
    """Return a copy of nested dicts and lists in which the tokens in all texts are replaced, such as a Sentry event."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, dict):
        return {key: hide_in(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(hide_in, value))
    return value


class HideTokens(logging.Filter):
    """A filter for handlers and loggers. It passes all records, and replaces the tokens in their texts and arguments.

    It cannot replace tokens in the text of an exception, which a formatter adds later. See docs/operations/security.md.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.args:
            record.msg = _hide_in(record.msg)
        elif isinstance(record.msg, str):
            # The value of the query parameter stays, because it can be the placeholder of an argument.
            record.msg = _TOKEN.sub(HIDDEN, record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(_hide_in(value) for value in record.args)
        elif isinstance(record.args, dict):
            record.args = copy.copy(record.args)  # some servers use their own subclass of dict
            for name, value in tuple(record.args.items()):
                record.args[name] = _hide_in(value)
        return True


def _hide_in(value: Any) -> Any:
    """Return the argument without tokens. Its type is kept if possible, because a formatter can depend on it."""
    if isinstance(value, bytes):
        return hide(value.decode(errors="replace")).encode()
    try:
        text = str(value)
    except Exception:  # logging reports this when it formats the record
        return value
    return value if (hidden := hide(text)) == text else hidden


def install(names: Iterable[str] = LOGGERS) -> None:
    """Add the filter to these loggers, by default to those of Django and of all servers that use Python's logging."""
    for name in names:
        logger = logging.getLogger(name)
        if not any(isinstance(known, HideTokens) for known in logger.filters):
            logger.addFilter(HideTokens())
