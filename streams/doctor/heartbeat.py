"""Keep a stream open without doing anything, and see whether it lives."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streams.conf import settings
from streams.doctor.connection import Response
from streams.doctor.findings import Finding, ok, problem, warning

# How much longer than a heartbeat a stream is kept open.
EXTRA_SECONDS = 5.0

# A pause of this length before a cut is silence, also on a channel with events.
SILENT_SECONDS = 1.0

UNBUFFER = (
    "In nginx, write `proxy_buffering off;` in the `location` of the streams, and remove `proxy_ignore_headers "
    "X-Accel-Buffering;`. In another proxy or a CDN, switch off the buffering of responses."
)


@dataclass(slots=True)
class Life:
    """The life of a stream while it was kept open. All times are in seconds.

    lived: how long it lived.
    silence: the time since the last bytes, at its end.
    beats: the number of heartbeats.
    is_busy: True if there were events.
    has_ended: True if it has ended by itself, `by_server` if the server has announced the end.
    """

    lived: float = 0.0
    silence: float = 0.0
    beats: int = 0
    is_busy: bool = False
    has_ended: bool = False
    by_server: bool = False


def default_seconds() -> float:
    """Return how long a stream is kept open by default."""
    return settings.HEARTBEAT_SECONDS + EXTRA_SECONDS


def hold(response: Response, seconds: float) -> Life:
    """Read the stream for `seconds`, or until it ends."""
    life = Life()
    began = last = response.seconds
    retry = response.decoder.retry_milliseconds
    for piece in response.pieces(began + seconds):
        last = piece.seconds
        life.beats += piece.is_quiet
        life.is_busy |= not piece.is_quiet
    life.lived, life.silence = response.seconds - began, response.seconds - last
    life.has_ended = response.has_ended
    # A server that ends a stream sends a random `retry:` last.
    life.by_server = response.has_ended and response.decoder.retry_milliseconds != retry
    return life


def judge(life: Life, seconds: float) -> Finding:
    """Return the finding about a stream that was kept open for `seconds`."""
    if life.has_ended:
        return _judge_end(life)
    heartbeat = settings.HEARTBEAT_SECONDS
    if life.beats:
        return ok("heartbeat", f"Heartbeats arrive. The stream lived for {life.lived:.0f} s.")
    if life.is_busy:
        words = "It had events, so that no heartbeat was needed."
        return ok("heartbeat", f"The stream lived for {life.lived:.0f} s. {words}")
    if seconds <= heartbeat:
        return warning(
            "heartbeat",
            f"Not checked: a heartbeat comes after {heartbeat:g} s, and the stream was open for {seconds:g} s.",
            f"Use --seconds {default_seconds():g}.",
        )
    return problem(
        "heartbeat",
        f"No heartbeat arrived within {seconds:g} s. Something in between collects the bytes of the stream, or the "
        f"server has another HEARTBEAT_SECONDS than this command, which has {heartbeat:g}.",
        UNBUFFER,
    )


def _judge_end(life: Life) -> Finding:
    heartbeat = settings.HEARTBEAT_SECONDS
    if life.by_server:
        return warning(
            "heartbeat",
            f"The server ended the stream after {life.lived:.1f} s. It was restarted, or a time limit was reached.",
            "This is normal during a deployment. Otherwise see MAX_STREAM_SECONDS, the view's `timeout`, and the "
            "lifetime of the token.",
        )
    if not life.beats and (not life.is_busy or life.silence > SILENT_SECONDS):
        return problem(
            "heartbeat",
            f"The stream was cut after {life.silence:.1f} s without an event. The server sends a heartbeat after "
            f"{heartbeat:g} s, which is too late. Each client reconnects again and again.",
            f"In nginx, write `proxy_read_timeout {math.ceil(4 * heartbeat)}s;` in the `location` of the streams. If "
            f"you cannot change the proxy, write STREAMS = {{'HEARTBEAT_SECONDS': {max(1, int(life.silence / 2))}}}.",
        )
    return problem(
        "heartbeat",
        f"The stream was cut after {life.lived:.1f} s, although it was not silent. Something limits the time of a "
        "whole response.",
        "Remove this limit for the streams from the proxy, the load balancer or the server: for example the backend "
        "timeout of a cloud load balancer.",
    )
