"""Notices as text, for buses that others may write to: JSON, signed with the SECRET_KEY for one log.

A hub applies the messages of a notice as they are, without asking the log. So what a stranger put on the bus, or a site
with another key that shares it, must not pass for a notice. Nor must a notice of another log under the same key: a test
run's, or a copy's of the site. Only ASCII goes out, whatever encoding the bus has.

A control notice can end streams, so that a captured one must not work a second time. It carries the time at which it
was sent and a nonce. A replayed notice of messages changes nothing: a hub applies a notice only if it continues its
position exactly.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import threading
import time
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.utils.crypto import constant_time_compare, salted_hmac

from streams.databases import log_name
from streams.notifiers.base import Notice, Revocation
from streams.sse import StoredEvent

logger = logging.getLogger("streams.notifiers")

# Processes of another version ignore the notice. They poll the log and recheck their streams, as after a lost notice.
VERSION = "2"
_SALT = "streams.notifiers.wire"
_said = threading.Event()

# A control notice that is older is ignored, and so is one from further in the future: clocks of machines can differ.
MAX_AGE_SECONDS = 60.0

# How many nonces are remembered. Beyond that, the one that was heard first is forgotten.
MAX_NONCES = 10_000


def encode(notice: Notice, max_bytes: int) -> str:
    """The notice as text of at most `max_bytes` bytes: without its messages where they do not fit."""
    if notice.revocation is not None:
        return _seal([0, 0, [], asdict(notice.revocation), round(time.time(), 3), secrets.token_urlsafe(9)])
    # Each character of data takes a byte or more, so that a large message need not be encoded to know it.
    if sum(len(message.data) for message in notice.messages) <= max_bytes:
        text = _encode(notice.first, notice.last, notice.messages)
        if len(text) <= max_bytes:
            return text
    return _encode(notice.first, notice.last, ())


class Decoder:
    """Decodes the notices that one notifier hears, and ignores control notices that it has heard before.

    It is used by one thread at a time.
    """

    def __init__(self) -> None:
        self._nonces: dict[str, float] = {}  # {nonce: when it was sent}, in the order in which they were heard

    def decode(self, text: object) -> Notice | None:
        """Return the notice, or None if it must be ignored. The reason is logged once in a process, not for each."""
        try:
            if not isinstance(text, str):
                raise ValueError("it is not text")
            version, signature, body = text.split(":", 2)
            if version != VERSION:
                logger.debug("A notice of another version of Streams was ignored, as happens in a rolling restart.")
                return None
            keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
            if not any(constant_time_compare(signature, _sign(body, key)) for key in keys):
                raise ValueError("it was signed with another SECRET_KEY, or for the log in another database")
            first, last, messages, *control = json.loads(body)
            if control and not self._is_new(*control[1:]):
                return None
            revocation = Revocation(**control[0]) if control else None
            return Notice(first, last, tuple(StoredEvent(*message) for message in messages), revocation)
        except Exception as error:
            if not _said.is_set():
                _said.set()
                logger.warning(
                    "Something on the notifier's bus was ignored: %s. Sites that share a bus need names of their own "
                    "on it (OPTIONS: channel or group). This is said once.",
                    error,
                )
            return None

    def _is_new(self, sent_at: float, nonce: str) -> bool:
        """Return True if a control notice was sent lately and was not heard before."""
        now = time.time()
        if abs(now - sent_at) > MAX_AGE_SECONDS:
            raise ValueError(
                f"a control notice must arrive within {MAX_AGE_SECONDS:g} s, and this one was sent {now - sent_at:.0f} "
                "s ago by the clock of this machine: set the clocks of all machines (NTP), or find out who repeats it"
            )
        if nonce in self._nonces:
            return False
        self._nonces[nonce] = sent_at
        while True:
            first, first_sent_at = next(iter(self._nonces.items()))
            if first_sent_at >= now - MAX_AGE_SECONDS and len(self._nonces) <= MAX_NONCES:
                return True
            del self._nonces[first]


def _encode(first: int, last: int, messages: tuple[StoredEvent, ...]) -> str:
    return _seal([first, last, [list(message) for message in messages]])


def _seal(content: list[Any]) -> str:
    body = json.dumps(content, separators=(",", ":"))
    return f"{VERSION}:{_sign(body, settings.SECRET_KEY)}:{body}"


def _sign(body: str, key: Any) -> str:
    # A body has no line end, so that none can be read as another one's with a longer name before it.
    digest = salted_hmac(_SALT, f"{log_name()}\n{body}", key, algorithm="sha256").digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
