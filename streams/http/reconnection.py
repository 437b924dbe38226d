"""The decisions of a client of an event stream: its requests, refusals, waits and cursor. No I/O.

`streams/client.py` does the I/O, sync and async.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from streams.exceptions import EventsMissed, EventTooLarge, StreamRefused, StreamUnavailable
from streams.protocol.sse import DecodedEvent, EventStreamDecoder
from streams.redaction import hide

logger = logging.getLogger("streams.client")

# The waits grow to this length by themselves. The server can ask for a longer one, up to the second limit.
MAX_BACKOFF_SECONDS = 60.0
MAX_ASKED_SECONDS = 3600.0

# The shortest wait after a failure, also if the server has asked for `retry: 0`.
MIN_BACKOFF_SECONDS = 0.1

# Refusals that pass. All statuses from 500 belong to them: proxies answer with these during a restart of the site.
PASSING = (408, 425, 429)

# How many characters of an error's text are shown.
MAX_MESSAGE_CHARACTERS = 500

# A token is sent in a header. Only these characters can be sent in every one.
_TOKEN = re.compile(r"[\x21-\x7e]+")


class PassingRefusal(Exception):
    """The server cannot serve the stream now. The text names the answer."""

    def __init__(self, refused: StreamRefused) -> None:
        super().__init__(str(refused))
        self.status, self.code = refused.status, refused.code


class Reconnection:
    """The state of an event source, which outlives its connections.

    Call `headers()` for each request, then `opens()` with the answer. If that is False, call `refuse()` with the
    answer's body; otherwise call `check_size()`, `feed()` with a chunk of the body, and `take()` until it returns None,
    in a loop. After a failure or the end of the body, call `wait_seconds()`. The arguments are those of
    streams.client.EventSource.
    """

    def __init__(
        self,
        url: str,
        *,
        channels: Iterable[str] = (),
        replay: int = 0,
        last_event_id: str = "",
        headers: Mapping[str, str] | None = None,
        can_renew_token: bool = False,
        retry_seconds: float = 3.0,
        max_attempts: int | None = None,
        max_event_characters: int,
    ) -> None:
        self.url = _with_parameters(url, channels, replay)
        self.token: str | None = None
        self.has_ended = False  # permanently, with a 204
        self._given_headers = dict(headers or {})
        self._can_renew_token = can_renew_token
        self._is_renewed = False
        self._retry_seconds = retry_seconds
        self._retry_after_seconds = 0.0
        self._max_attempts = max_attempts
        self._max_event_characters = max_event_characters
        self._failures = 0  # since the last event
        self._has_received = False  # an event, since the last attempt began
        self._error = ""  # from a stream-error of this connection
        self._decoder = EventStreamDecoder()
        self._decoder.last_event_id = last_event_id
        self._events: deque[DecodedEvent] = deque()
        self._taken_id = last_event_id

    @property
    def last_event_id(self) -> str:
        """The cursor after the events that were taken. Those that wait to be taken do not count yet."""
        return self._taken_id if self._events else self._decoder.last_event_id

    def shown(self) -> str:
        """Return the URL without secrets, for texts."""
        parts = urlsplit(self.url)
        return hide(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))

    def set_token(self, token: object) -> None:
        """Set the token of the next requests. The error for a wrong one does not contain it."""
        if not isinstance(token, str):
            raise TypeError(f"A token is a str; got {type(token).__name__}.")
        if not _TOKEN.fullmatch(token.strip()):
            raise ValueError(
                f"A token has visible ASCII characters, at least one, and no others; got {len(token)} characters."
            )
        self.token = token.strip()

    def headers(self) -> list[tuple[str, str | bytes]]:
        """Return the headers of the next request."""
        own: dict[str, str | bytes] = {
            "Accept": "text/event-stream",
            # The standard forbids the cache, for which browsers send this.
            "Cache-Control": "no-cache",
            # Compressed bytes would be held back, and could expand to any size in memory.
            "Accept-Encoding": "identity",
        }
        if self.token is not None:
            own["Authorization"] = f"Bearer {self.token}"
        # In UTF-8 by the standard. Spaces around a header's value are not part of it (RFC 9110, section 5.5).
        if cursor := self._decoder.last_event_id.strip(" \t"):
            own["Last-Event-ID"] = cursor.encode()
        names = {name.lower() for name in own}
        given = [(name, value) for name, value in self._given_headers.items() if name.lower() not in names]
        return [*given, *own.items()]

    # --- Answers ---

    def opens(self, status: int, headers: Mapping[str, str]) -> bool:
        """Return True if the answer is an event stream, or the permanent end of one. Otherwise it is a refusal."""
        if status == 204:
            self.has_ended = True
            return True
        if status != 200 or _media_type(headers) != "text/event-stream" or _is_compressed(headers):
            return False
        self._is_renewed = False
        self._has_received = False
        decoder = EventStreamDecoder()
        decoder.last_event_id = self._decoder.last_event_id
        self._decoder = decoder
        return True

    def refuse(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Raise PassingRefusal or StreamRefused, or return if the next request is to be sent with a new token."""
        refused = self._refused(status, headers, body)
        if status in (401, 403) and self._can_renew_token and not self._is_renewed:
            self.token, self._is_renewed = None, True
            logger.info("%s. Getting a new token.", _sentence(refused))
        elif status in PASSING or status >= 500:
            self._retry_after_seconds = _retry_after(headers)
            raise PassingRefusal(refused)
        else:
            raise refused

    def _refused(self, status: int, headers: Mapping[str, str], body: bytes) -> StreamRefused:
        code, message = _json_error(body)
        if status == 200 and _is_compressed(headers):
            code, message = (
                "compressed",
                "The stream is compressed, which was not asked for. Exempt it from compression.",
            )
        elif status == 200:
            code = "content-type"
            message = (
                f"The answer is not an event stream: its Content-Type is {headers.get('Content-Type', '')[:100]!r}."
            )
        elif 300 <= status < 400:
            code, message = "redirect", "The redirect cannot be followed, or there are too many."
        return StreamRefused(self.shown(), status, code, hide(message))

    # --- Events ---

    def feed(self, chunk: bytes) -> None:
        """Decode bytes of the body."""
        events = self._decoder.feed(chunk)
        self._events.extend(events)
        if any(event.event != "stream-error" for event in events):
            self._has_received, self._failures = True, 0
        if (milliseconds := self._decoder.retry_milliseconds) is not None:
            self._retry_seconds = min(milliseconds / 1000, MAX_ASKED_SECONDS)

    def check_size(self) -> None:
        """Raise EventTooLarge if the unfinished event has too many characters. Call it before reading on."""
        if self._decoder.held > self._max_event_characters:
            raise EventTooLarge(
                f"An event has at most {self._max_event_characters} characters (max_event_characters); a larger one "
                f"arrived from {self.shown()} after the id {self._decoder.last_event_id!r}. Raise the limit, or leave "
                "that event out by starting after it."
            )

    def take(self) -> DecodedEvent | None:
        """Return the next event that has arrived, or None. Control events that need no action are left out."""
        while self._events:
            event = self._events.popleft()
            self._taken_id = event.id
            if event.event == "stream-error":
                code, message = _json_error(event.data.encode())
                self._error = hide(f"{code}: {message}").rstrip(".")
            elif event.event != "stream-checkpoint":
                return event
        return None

    # --- Waits ---

    def wait_seconds(self, error: BaseException | None = None) -> float:
        """Return how long to wait before the next attempt. Without an error, the stream has ended cleanly.

        Raises:
            StreamUnavailable: `max_attempts` attempts in a row have failed.
        """
        text = _sentence(error) if error is not None else self._error
        self._error = ""
        if not text and not self._has_received:
            text = "it ended without an event"
        if text:
            self._failures += 1
        if text and self._max_attempts is not None and self._failures >= self._max_attempts:
            raise StreamUnavailable(
                self.shown(), self._failures, text, status=getattr(error, "status", None)
            ) from error
        self._has_received = False
        seconds, self._retry_after_seconds = max(self._backoff(), self._retry_after_seconds), 0.0
        # Never earlier than the server asks for; later at random, because its other clients have lost it as well.
        seconds *= random.uniform(1, 1.5)  # noqa: S311
        if text:
            logger.warning("The stream %s failed: %s. Reconnecting in %.1f s.", self.shown(), text, seconds)
        else:
            logger.debug("The stream %s ended. Reconnecting in %.1f s.", self.shown(), seconds)
        return seconds

    def _backoff(self) -> float:
        doublings = min(self._failures - 1, 16)
        if doublings <= 0:
            return self._retry_seconds
        growing = max(self._retry_seconds, MIN_BACKOFF_SECONDS) * 2.0**doublings
        return max(self._retry_seconds, min(growing, MAX_BACKOFF_SECONDS))


def missed(event: DecodedEvent) -> EventsMissed:
    """Return the exception for a `stream-reset` event."""
    data = _json_object(event.data)
    return EventsMissed(
        str(data.get("reason", "")), str(data.get("requested", "")), data.get("earliest"), data.get("head")
    )


def _with_parameters(url: str, channels: Iterable[str], replay: int) -> str:
    if isinstance(channels, str):
        raise TypeError(f"channels is a list of names; got the text {channels!r}. Write channels=[{channels!r}].")
    added = [("channel", name) for name in channels]
    if replay:
        added.append(("replay", str(replay)))
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode(added))))
    return urlunsplit(parts._replace(query=query, fragment=""))


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _is_compressed(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Encoding", "").strip().lower() not in ("", "identity")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the value of Retry-After in seconds: a number or a date (RFC 9110, section 10.2.3); 0 without one."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:10]), MAX_ASKED_SECONDS)
    try:
        seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, seconds), MAX_ASKED_SECONDS)


def _json_object(text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _json_error(body: bytes) -> tuple[str, str]:
    """Return the code and the message of an error in JSON; of another text, its beginning as the message."""
    found = _json_object(body)
    error = found.get("error", found)
    if isinstance(error, dict) and ("code" in error or "message" in error):
        code, message = str(error.get("code", "")), str(error.get("message", ""))
    else:
        code, message = "", " ".join(body.decode(errors="replace").split())
    return code[:100], message[:MAX_MESSAGE_CHARACTERS]


def _sentence(error: BaseException) -> str:
    """Return the error as a text that has no secrets and no full stop."""
    text = hide(str(error)).rstrip(".")
    return text if isinstance(error, PassingRefusal | StreamRefused) else f"{type(error).__name__}: {text}".rstrip(": ")
