"""Notices as text, for buses that others may write to: JSON, signed with the SECRET_KEY for one log.

A hub applies the messages of a notice as they are, without asking the log. So what a stranger put on the bus, or a site
with another key that shares it, must not pass for a notice. Nor must a notice of another log under the same key: a test
run's, or a copy's of the site. Only ASCII goes out, whatever encoding the bus has.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.utils.crypto import constant_time_compare, salted_hmac

from streams.databases import log_name
from streams.events import StoredEvent
from streams.notifiers.base import Notice, Revocation

logger = logging.getLogger("streams.notifiers")

VERSION = "1"
_SALT = "streams.notifiers.wire"
_said = threading.Event()


def encode(notice: Notice, max_bytes: int) -> str:
    """The notice as text of at most `max_bytes` bytes: without its messages where they do not fit."""
    if notice.revocation is not None:
        return _seal([0, 0, [], asdict(notice.revocation)])
    # Each character of data takes a byte or more, so that a large message need not be encoded to know it.
    if sum(len(message.data) for message in notice.messages) <= max_bytes:
        text = _encode(notice.first, notice.last, notice.messages)
        if len(text) <= max_bytes:
            return text
    return _encode(notice.first, notice.last, ())


def decode(text: object) -> Notice | None:
    """The notice, or None for whatever is not one of ours. That is logged once in a process, not for each."""
    try:
        if not isinstance(text, str):
            raise ValueError("it is no text")
        version, signature, body = text.split(":", 2)
        if version != VERSION:
            raise ValueError("it is of another version of Streams")
        keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
        if not any(constant_time_compare(signature, _sign(body, key)) for key in keys):
            raise ValueError("it was signed with another SECRET_KEY, or for the log in another database")
        first, last, messages, *control = json.loads(body)
        revocation = Revocation(**control[0]) if control else None
        return Notice(first, last, tuple(StoredEvent(*message) for message in messages), revocation)
    except Exception as error:
        if not _said.is_set():
            _said.set()
            logger.warning(
                "Something on the notifier's bus was ignored: %s. Sites that share a bus need names of their own on it "
                "(OPTIONS: channel or group). This is said once.",
                error,
            )
        return None


def _encode(first: int, last: int, messages: tuple[StoredEvent, ...]) -> str:
    return _seal([first, last, [list(message) for message in messages]])


def _seal(content: list[Any]) -> str:
    body = json.dumps(content, separators=(",", ":"))
    return f"{VERSION}:{_sign(body, settings.SECRET_KEY)}:{body}"


def _sign(body: str, key: Any) -> str:
    # A body has no line end, so that none can be read as another one's with a longer name before it.
    digest = salted_hmac(_SALT, f"{log_name()}\n{body}", key, algorithm="sha256").digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
