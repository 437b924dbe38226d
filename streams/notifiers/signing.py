"""Encode notices as signed text, for buses to which other programs can write: JSON, signed with the SECRET_KEY.

A hub applies the messages of a notice without reading the log. So text from another program, or from a site with
another key, must not be accepted as a notice. The name of the log is signed too, so that a notice of another log with
the same key is not accepted, such as that of a test run or of a copy of the site. The text is ASCII, so that the
encoding of the bus does not matter.

A control notice can end streams, so that a captured one must not work a second time. It contains the time at which it
was sent and a nonce. A repeated notice of messages changes nothing, because a hub applies a notice only if it follows
its position exactly.
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

from streams.notifiers.base import Notice, Revocation
from streams.protocol.sse import StoredEvent
from streams.runtime.database import log_name
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams.notifiers")

# Processes of another version ignore the notice. They poll the log and recheck their streams, as if it had been lost.
VERSION = "3"
_SALT = "streams.notifiers.wire"
_is_logged = threading.Event()

# The largest difference between the time of a control notice and this machine's clock. Others are ignored.
MAX_AGE_SECONDS = 60.0

# The number of nonces that are remembered. The oldest one is dropped first.
MAX_NONCES = 10_000


def encode(notice: Notice, max_bytes: int) -> str:
    """Return the notice as text of at most `max_bytes` bytes.

    If its messages do not fit, they are left out, and if its traces do not fit then, these as well.
    """
    if notice.revocation is not None:
        return _seal([0, 0, [], None, {}, asdict(notice.revocation), round(time.time(), 3), secrets.token_urlsafe(9)])
    committed_at = None if notice.committed_at is None else round(notice.committed_at, 3)
    # Each character takes a byte or more, so that large messages can be left out without encoding them.
    if sum(len(message.data) for message in notice.messages) <= max_bytes:
        text = _seal([notice.first, notice.last, notice.messages, committed_at, notice.traces])
        if len(text) <= max_bytes:
            return text
    text = _seal([notice.first, notice.last, [], committed_at, notice.traces])
    return text if len(text) <= max_bytes else _seal([notice.first, notice.last, [], committed_at, {}])


class Decoder:
    """Decodes the notices of one notifier, and ignores control notices that it has received before.

    It is used by one thread at a time.
    """

    def __init__(self) -> None:
        self._nonces: dict[str, float] = {}  # {nonce: time of sending}, in the order of arrival

    def decode(self, text: object) -> Notice | None:
        """Return the notice, or None if it must be ignored. The first reason is logged, once in each process."""
        try:
            if not isinstance(text, str):
                raise ValueError("it is not text")
            version, signature, body = text.split(":", 2)
            if version != VERSION:
                logger.debug("Ignored a notice of another version of Streams. This is normal during a rolling restart.")
                return None
            keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
            if not any(constant_time_compare(signature, _sign(body, key)) for key in keys):
                raise ValueError("it was signed with another SECRET_KEY, or for the log in another database")
            first, last, messages, committed_at, traces, *control = json.loads(body)
            if control and not self._is_new(*control[1:]):
                return None
            revocation = Revocation(**control[0]) if control else None
            return Notice(
                first,
                last,
                tuple(StoredEvent(*message) for message in messages),
                revocation,
                committed_at=committed_at,
                traces={int(position): traceparent for position, traceparent in traces.items()},
            )
        except Exception as error:
            if not _is_logged.is_set():
                _is_logged.set()
                logger.warning(
                    "Ignored a text on the notifier's bus: %s. Sites that share a bus need different names on it "
                    "(OPTIONS: channel or group). This is logged once.",
                    error,
                    extra=fields(event="notice-ignored"),
                )
            return None

    def _is_new(self, sent_at: float, nonce: str) -> bool:
        """Return True if a control notice is recent and was not received before."""
        now = time.time()
        if abs(now - sent_at) > MAX_AGE_SECONDS:
            raise ValueError(
                f"a control notice must arrive within {MAX_AGE_SECONDS:g} s, and this one was sent {now - sent_at:.0f} "
                "s ago by this machine's clock; synchronise the clocks of all machines (NTP), or find the program that "
                "repeats notices"
            )
        if nonce in self._nonces:
            return False
        self._nonces[nonce] = sent_at
        while True:
            first, first_sent_at = next(iter(self._nonces.items()))
            if first_sent_at >= now - MAX_AGE_SECONDS and len(self._nonces) <= MAX_NONCES:
                return True
            del self._nonces[first]


def _seal(content: list[Any]) -> str:
    body = json.dumps(content, separators=(",", ":"))
    return f"{VERSION}:{_sign(body, settings.SECRET_KEY)}:{body}"


def _sign(body: str, key: Any) -> str:
    # JSON contains no line end, so that name and body cannot be confused.
    digest = salted_hmac(_SALT, f"{log_name()}\n{body}", key, algorithm="sha256").digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
