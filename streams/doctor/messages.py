"""Test messages, and the replay after a reconnect.

Test messages have an event type of their own, so that no listener for other types gets them, `onmessage` included.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator

from streams.conf import settings
from streams.doctor.connection import Response
from streams.doctor.database import in_time
from streams.doctor.findings import Finding, Findings, ok, problem, warning
from streams.notifiers import get_notifier
from streams.notifiers.local import LocalNotifier
from streams.protocol.events import NewMessage
from streams.protocol.sse import DecodedEvent, is_position
from streams.publishing.publish import publish_many

EVENT = "streams-doctor"
LIVE_SECONDS = 10.0

# A Last-Event-ID that is not a position. The server answers it with a stream-reset.
INVALID_ID = "streams-doctor"

FORWARD_ID = (
    "Let the proxy or CDN pass the request header Last-Event-ID on. In a CDN, add it to the headers that are "
    "forwarded to the origin."
)


def _publish(channel: str, count: int) -> list[str]:
    """Publish test messages, and return their ids."""
    text = f"A test by manage.py streams_doctor, {secrets.token_hex(4)}"
    stored = in_time(lambda: publish_many([NewMessage(channel, text, event=EVENT) for _ in range(count)]))
    return [str(message.position) for message in stored]


def publish_pair(channel: str) -> list[str]:
    """Publish two test messages, and return their ids."""
    return _publish(channel, 2)


def check_live(response: Response, channel: str) -> Generator[Finding, None, bool]:
    """Publish a message, and wait for it on the open stream. Return True if it arrived.

    If it did not, the response cannot be read any more.
    """
    began = time.monotonic()
    [wanted] = _publish(channel, 1)
    if wanted in [event.id for event in read_until(response, [wanted], response.seconds + LIVE_SECONDS)]:
        seconds = time.monotonic() - began
        words = f"A message that this command published to {channel} arrived after {1000 * seconds:.0f} ms."
        if seconds > settings.POLL_SECONDS / 2 and isinstance(get_notifier(), LocalNotifier):
            yield ok("messages", f"{words} With LocalNotifier, servers find messages of other processes by polling.")
        elif seconds > settings.POLL_SECONDS / 2:
            yield warning(
                "messages",
                f"{words} The server found it by polling.",
                "See the findings about the notifier.",
            )
        else:
            yield ok("messages", words)
        return True
    yield problem(
        "messages",
        f"A message that this command published to {channel} did not arrive within {LIVE_SECONDS:g} s.",
        f"Check that the URL is a stream of {channel}, and that the servers behind it use the same DATABASES as this "
        "command.",
    )
    return False


def read_until(response: Response, ids: list[str], seconds: float) -> list[DecodedEvent]:
    """Read until the events with these ids have arrived, or the first event if `ids` is empty. Return all events."""
    events: list[DecodedEvent] = []
    for piece in response.pieces(seconds):
        events += piece.events
        if events and set(ids) <= {event.id for event in events if event.event == EVENT}:
            break
    return events


def check_replay(events: list[DecodedEvent], cursor: str, expected: list[str], *, is_reported: bool) -> Findings:
    """Judge the events after a reconnect.

    Args:
        events: the events that arrived.
        cursor: the Last-Event-ID with which the client reconnected.
        expected: the ids of the test messages that were published while it was away.
        is_reported: True if the server has reported an invalid Last-Event-ID.
    """
    first = events[0] if events else None
    received = [event.id for event in events if event.event == EVENT]
    if first is None:
        yield problem("reconnect", "After a reconnect, no event arrived.", "See the other findings about the stream.")
    elif first.event == "stream-reset" or not is_position(first.id) or int(first.id) < int(cursor):
        yield problem(
            "reconnect",
            f"After a reconnect with the id {cursor}, the stream did not continue there ({first.event}, {first.id}).",
            "All servers behind this URL must use the same database: compare their DATABASES. A cache or a replica "
            "must not answer.",
        )
    elif not is_reported:
        yield problem(
            "reconnect",
            "An invalid Last-Event-ID was not answered with stream-reset: the header does not reach the server. "
            "Clients miss the messages of each interruption.",
            FORWARD_ID,
        )
    elif received != expected:
        yield problem(
            "reconnect",
            f"Of {len(expected)} messages that were published during the interruption, {len(set(received))} arrived.",
            "Compare the DATABASES of the servers behind this URL.",
        )
    else:
        words = f", and got the {len(expected)} messages of the interruption" if expected else ""
        yield ok("reconnect", f"A client that reconnected continued at its last id{words}.")
