"""Open a stream at a URL, as a browser does, and find out what the servers and proxies in between do with it."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from django.db import Error

from streams.conf import settings
from streams.doctor import addresses, heartbeat, messages
from streams.doctor.answers import STREAM, check_failure, check_headers, check_redirect, check_refusal
from streams.doctor.application import error_code
from streams.doctor.connection import BROWSER_ENCODINGS, DECODED, UNCOMPRESSED, Response, Target, offers_http2, request
from streams.doctor.findings import Finding, Findings, Level, ok, problem, warning
from streams.doctor.heartbeat import UNBUFFER
from streams.exceptions import InvalidSetting, StreamsError
from streams.runtime import failures

# How long a stream can take to send its first event. The server sends it at once, but it can be busy.
FIRST_SECONDS = 8.0

# Above this, the first event counts as late. The first stream of a process takes longer than the others.
LATE_SECONDS = 2.0

MAX_REQUESTS = 4

REFUSED = (OSError, http.client.HTTPException)

UNCOMPRESS = (
    "In nginx, write `gzip off;` in the `location` of the streams, or remove `text/event-stream` from `gzip_types`. "
    "In a CDN, switch off the compression of text/event-stream. In Django, exempt the streams from middleware that "
    "compresses."
)
SIX = "Over HTTP/1.1, a browser opens six connections to a host, for all its tabs together. A seventh stream waits."


@dataclass(frozen=True, slots=True)
class Options:
    """How to open the stream.

    url: the URL of a stream, or of the mount of streams.urls.
    headers: further headers of the requests, such as credentials. They are never shown.
    seconds: how long to keep the stream open; None for HEARTBEAT_SECONDS and five more.
    insecure: True to accept any certificate.
    origin: the origin of a page on another site that reads the stream, or None.
    publish: the channel of the URL, to which test messages are published, or None.
    report: called with a line of text before a long wait.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    seconds: float | None = None
    insecure: bool = False
    origin: str | None = None
    publish: str | None = None
    report: Callable[[str], object] = lambda text: None


def check_stream(options: Options) -> Findings:
    """Yield the findings about the stream at `options.url`. Raises ValueError if that is not a URL.

    This blocks for a little longer than `options.seconds`.
    """
    check = _StreamCheck(options, Target.parse(options.url))
    try:
        yield from check.run()
    except InvalidSetting as error:
        yield problem("settings", f"Not everything was checked, because a setting is wrong: {error}")
    except (Error, StreamsError) as error:
        yield problem(
            "messages",
            f"The test messages could not be published ({type(error).__name__}). {failures.explain(error)}",
            "See the findings about the database, and run the command where the site runs.",
        )


class _StreamCheck:
    def __init__(self, options: Options, target: Target) -> None:
        self._options = options
        self._target = target
        self._forged = addresses.forged_address()
        self._cursor = ""

    def _open(
        self, seconds: float, *, method: str = "GET", encodings: str = BROWSER_ENCODINGS, last_event_id: str = ""
    ) -> AbstractContextManager[Response]:
        headers = {
            "Accept": STREAM,
            "Accept-Encoding": encodings,
            "Cache-Control": "no-cache",
            "User-Agent": "streams_doctor",
            addresses.HEADER: self._forged,
            **({"Last-Event-ID": last_event_id} if last_event_id else {}),
            **({"Origin": self._options.origin} if self._options.origin else {}),
            **self._options.headers,
        }
        return request(self._target, headers, seconds=seconds, insecure=self._options.insecure, method=method)

    def run(self) -> Findings:
        for _ in range(MAX_REQUESTS):
            try:
                with self._open(FIRST_SECONDS) as response:
                    if response.status == 200 and response.content_type == STREAM:
                        yield from self._examine(response)
                        break
                    following = yield from self._next_target(response)
            except TimeoutError:
                yield from self._explain_silence("")
                break
            except REFUSED as error:
                yield check_failure(self._target, error)
                return
            if following is None:
                break
            self._target = following
        else:
            yield problem(
                "redirects", f"{self._target} redirects without an end.", "Correct the redirects in the proxy."
            )
        yield from self._check_http2()

    def _next_target(self, response: Response) -> Generator[Finding, None, Target | None]:
        """Yield the findings about an answer that is no stream. Return the next URL to open, or None."""
        if 300 <= response.status < 400 and "Location" in response.headers:
            return (yield from check_redirect(self._target, response.headers["Location"]))
        for _ in response.pieces(response.seconds + FIRST_SECONDS):
            pass
        channel = next((name for name in settings.PUBLIC_CHANNELS if not set("*?[") & set(name)), None)
        if error_code(response.body) == "missing-channel" and (channel := self._options.publish or channel):
            separator = "&" if "?" in self._target.path else "?"
            return replace(self._target, path=f"{self._target.path}{separator}channel={quote(channel)}")
        yield check_refusal(self._target, response)
        return None

    # --- The first event ----------------------------------------------------------------------------------------------

    def _examine(self, response: Response) -> Findings:
        arrived = _first_event(response)
        if arrived is None and not response.has_ended:
            yield from self._explain_silence(response.encoding)
            return
        if arrived is None:
            yield _ended_at_once(self._target, response)
            return
        yield ok("answer", f"{self._target} is a stream.")
        words = f"The first event arrived {arrived:.2f} s after the request."
        if arrived > LATE_SECONDS:
            yield warning("first event", words, "See the load of the server and the findings about the database.")
        else:
            yield ok("first event", words)
        if response.encoding:
            yield warning(
                "compression",
                f"The stream is compressed ({response.encoding}). A compressor can hold an event back until the next "
                "one.",
                UNCOMPRESS,
            )
        else:
            yield ok("compression", "The stream is not compressed.")
        yield from check_headers(response, self._options.origin)
        if response.encoding in DECODED:
            yield from self._listen(response)
            return
        response.close()
        with self._open(FIRST_SECONDS, encodings=UNCOMPRESSED) as plain:
            if plain.encoding in DECODED and _first_event(plain) is not None:
                yield from self._listen(plain)

    def _listen(self, response: Response) -> Findings:
        """Check the rest of a stream, whose first event has arrived."""
        self._cursor = response.decoder.last_event_id
        if not self._cursor:
            yield warning(
                "reconnect",
                "The events have no ids. This is not a stream of the log, so that clients miss events when they "
                "reconnect.",
                "Serve it with streams.views.EventStreamView.",
            )
        channel = self._options.publish
        if channel is not None and self._cursor and not (yield from messages.check_live(response, channel)):
            return
        yield from self._hold(response)
        self._cursor = response.decoder.last_event_id
        response.close()
        if self._cursor:
            yield from self._check_reconnect()

    def _explain_silence(self, encoding: str) -> Findings:
        """Find out why the first event did not arrive: compression, buffering, or a server that does not answer."""
        seconds = f"{FIRST_SECONDS:g} s"
        with contextlib.suppress(*REFUSED), self._open(FIRST_SECONDS, encodings=UNCOMPRESSED) as response:
            if response.content_type == STREAM and not response.encoding and _first_event(response) is not None:
                yield problem(
                    "compression",
                    f"If the client accepts compression, as browsers do, no event arrived within {seconds}. Without "
                    "compression, it arrived at once.",
                    UNCOMPRESS,
                )
                return
        with contextlib.suppress(*REFUSED), self._open(FIRST_SECONDS, method="HEAD") as response:
            if response.status == 200 and response.content_type == STREAM:
                yield problem(
                    "buffering",
                    f"The server answers, but no event arrived within {seconds}. Something in between collects the "
                    f"bytes of the stream{f' and compresses them ({encoding})' if encoding else ''}.",
                    UNBUFFER + (f" {UNCOMPRESS}" if encoding else ""),
                )
                return
        yield problem(
            "answer",
            f"{self._target} did not answer within {seconds}.",
            "Look into the logs of the proxy and the server. Is the server busy, or waiting for the database?",
        )

    def _hold(self, response: Response) -> Findings:
        seconds = heartbeat.default_seconds() if self._options.seconds is None else self._options.seconds
        self._options.report(f"Keeping the stream open for {seconds:g} s …")
        life = heartbeat.hold(response, seconds)
        finding = heartbeat.judge(life, seconds)
        yield finding
        if finding.level is Level.OK:
            yield ok("buffering", "The stream's bytes were passed on at once.")
        if not life.has_ended:
            yield from addresses.check(response, self._forged)

    # --- Reconnecting -------------------------------------------------------------------------------------------------

    def _check_reconnect(self) -> Findings:
        """Reconnect with the last id, and then with an invalid one, which the server reports if it arrives."""
        expected = [] if self._options.publish is None else messages.publish_pair(self._options.publish)
        try:
            with self._open(FIRST_SECONDS, encodings=UNCOMPRESSED, last_event_id=self._cursor) as response:
                events = messages.read_until(response, expected, FIRST_SECONDS)
            with self._open(FIRST_SECONDS, encodings=UNCOMPRESSED, last_event_id=messages.INVALID_ID) as response:
                _first_event(response)
                is_reported = b"event: stream-reset" in response.body
        except REFUSED as error:
            yield problem(
                "reconnect",
                f"A second connection failed ({type(error).__name__}).",
                "Look into the logs of the proxy and the server, and compare the limits per address.",
            )
            return
        yield from messages.check_replay(events, self._cursor, expected, is_reported=is_reported)

    # --- HTTP/2 -------------------------------------------------------------------------------------------------------

    def _check_http2(self) -> Findings:
        if self._target.scheme != "https" and self._target.is_local:
            return  # a server process, or a site in development
        if self._target.scheme != "https":
            yield warning(
                "HTTP/2",
                f"Browsers use HTTP/2 only over https. {SIX}",
                "Serve the site over TLS: in nginx, write `listen 443 ssl;` and `http2 on;`.",
            )
            return
        try:
            has_http2 = offers_http2(self._target, insecure=self._options.insecure)
        except OSError as error:
            yield check_failure(self._target, error)
            return
        if has_http2:
            yield ok("HTTP/2", "Browsers use HTTP/2, so that all streams share one connection.")
        else:
            yield warning(
                "HTTP/2",
                f"{self._target.authority} does not offer HTTP/2. {SIX}",
                "In nginx, write `http2 on;` (before 1.25.1, `listen 443 ssl http2;`).",
            )


def _first_event(response: Response) -> float | None:
    """Return the seconds until the first event arrived; None if none arrived within FIRST_SECONDS."""
    for piece in response.pieces(FIRST_SECONDS):
        if piece.events or response.encoding not in DECODED:
            return piece.seconds
    return None


def _ended_at_once(target: Target, response: Response) -> Finding:
    """Return the finding about a stream that ended before its first event."""
    if response.body.startswith(b"retry:"):
        return problem(
            "answer",
            f"A proxy answers at {target} in place of the site's servers, so that clients keep trying. The servers "
            "are down, or have lost their database.",
            "Start the site's servers, and look for `upstream=502` or `upstream=503` in the proxy's access log.",
        )
    return problem(
        "answer", f"{target} is a stream that ended at once.", "Look into the logs of the proxy and the site."
    )
