"""EventStreamView reads the parameters of a request, and refuses it or answers with a stream."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import TooManyFieldsSent
from django.core.handlers.asgi import ASGIRequest
from django.db import Error
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.decorators import method_decorator
from django.views import View

from streams import log
from streams.access.admission import Admission
from streams.conf import settings
from streams.delivery import limits
from streams.delivery.subscriber import Subscriber
from streams.exceptions import HTTPError, InvalidChannel, InvalidToken, too_many_parameters
from streams.http import refusals
from streams.http.json_responses import error_response
from streams.http.response import ENDS, HEADERS, NEEDS_ASGI, EventStreamResponse, report_wsgi
from streams.policies import BasePolicy, get_policy
from streams.protocol.events import validate_channels
from streams.protocol.sse import is_position
from streams.runtime import clock, executor, failures
from streams.runtime.database import non_atomic_requests
from streams.runtime.request_resources import close_request_connections, release_request
from streams.tokens import Token, atoken_of, token_of

logger = logging.getLogger("streams")

RETRY_AFTER_SECONDS = 5
ALLOWED = "GET, HEAD, OPTIONS"

# The query's names for a cursor, the freshest first. {% stream_url %} writes `last_event_id`. Client libraries append
# the others to that URL.
CURSOR_PARAMETERS = ("lastEventId", "lastEventID", "Last-Event-ID", "last-event-id", "last_event_id")


# Django refuses ATOMIC_REQUESTS for async views. LoginRequiredMiddleware would redirect to a page that is not a stream,
# with the token in the redirect's URL.
@method_decorator([non_atomic_requests, login_not_required], name="dispatch")
class EventStreamView(View):
    """Streams one or several channels: replay from the client's cursor, then live.

    Subclass it to choose the channels (`get_channels`), to send the state first (`get_snapshot`), or to end streams:
    after `timeout` seconds, after which clients reconnect, or permanently after a message with one of the types
    `final_events`, such as a job's "done". A client that reconnects after such a message gets a 204, and an EventSource
    then stays closed.

        class ScoreStream(EventStreamView):
            def get_channels(self, request, match_id):
                return [f"score.{match_id}"]

            async def get_snapshot(self, request, channels):
                return await current_score(self.kwargs["match_id"])
    """

    http_method_names = ["get", "head", "options"]
    timeout: float | None = None
    final_events: Sequence[str] = ()
    preamble: bytes = b""  # a block for clients that expect one at the beginning

    # Subclasses can define `get_snapshot(self, request, channels)`, sync or async. Its result is sent as a
    # `stream-snapshot` event (a str as it is, anything else as JSON) on a fresh connect and after a reset, instead of
    # partial history. The cursor is read before it is called, so that no message is lost in between.
    get_snapshot: Any = None

    def get_channels(self, request: HttpRequest, **kwargs: Any) -> Sequence[str]:
        """Return the channels to stream: the URL's `channel`, or else each `channel` of the query."""
        return [kwargs["channel"]] if "channel" in kwargs else request.GET.getlist("channel")

    async def _channels(self, request: HttpRequest, **kwargs: Any) -> Sequence[str]:
        return self.get_channels(request, **kwargs)

    def get_cursor(self, request: HttpRequest) -> str | None:
        """Return the last event id that the client has sent; None if it has sent none.

        The header wins, because a browser that reconnects repeats the URL of its first request. If a URL has several
        cursors with one name, the last one counts, because client libraries append theirs. Whitespace around a header's
        value does not belong to it (RFC 9110, section 5.5), and not all servers remove it.
        """
        given = [request.headers.get("Last-Event-ID", "")]
        for name in CURSOR_PARAMETERS:
            given += reversed(request.GET.getlist(name))
        return next((cursor for text in given if (cursor := text.strip(" \t"))), None)

    def get_policy(self) -> BasePolicy:
        """Return the policy that decides who can read, by default the one that STREAMS['POLICY'] names."""
        return get_policy()

    async def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        try:
            return await self._stream(request, **kwargs)
        except HTTPError as error:
            if refusals.is_in_band(request, error):
                return refusals.in_band(request, error)
            return error_response(error)

    async def head(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        """Return the status and headers of GET without opening a stream."""
        try:
            await self._admit(request, **kwargs)
            limits.check(request)
        except HTTPError as error:
            if refusals.is_in_band(request, error):
                return HttpResponse(headers=HEADERS)
            response = error_response(error)
            return HttpResponse(status=response.status_code, headers=dict(response.headers))
        return HttpResponse(headers=HEADERS)

    async def options(  # type: ignore[override]  # all methods of a view are async, or none
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Return the methods. The site's middleware has answered a CORS preflight before."""
        return HttpResponse(headers={"Allow": ALLOWED, "Content-Length": "0"})

    def http_method_not_allowed(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        async def refuse() -> HttpResponse:
            message = f"A stream is read with GET; got {request.method}."
            return error_response(HTTPError(405, "method-not-allowed", message, headers={"Allow": ALLOWED}))

        return refuse()

    async def _admit(self, request: HttpRequest, **kwargs: Any) -> tuple[tuple[str, ...], int, Admission]:
        """Return the channels, the number of messages to replay, and the admission. Raises HTTPError."""
        if not isinstance(request, ASGIRequest):
            report_wsgi()
            raise HTTPError(500, "asgi-required", NEEDS_ASGI)
        policy, began = self.get_policy(), time.monotonic()
        try:
            await atoken_of(request)  # first: an invalid token is refused even if the channels are public
            channels = _check_channels(await self._channels(request, **kwargs))
            replay = _check_replay(request)
            _check_end(request)
            _check_refuse(request)
            refused = await policy.adenied_channels(request, channels)
        except InvalidToken as error:
            raise HTTPError(403, error.code, str(error)) from None
        except TooManyFieldsSent:
            raise too_many_parameters() from None
        except Error as error:
            failures.report(logger, "Whether a stream may be read could not be decided.")
            text = f"Whether you may read this could not be decided. {failures.explain(error)}"
            raise HTTPError(503, "undecided", text, retry_after_seconds=RETRY_AFTER_SECONDS) from None
        if refused:
            raise HTTPError(403, "forbidden", policy.denied_message(refused))
        return channels, replay, Admission(request, channels, policy, began)

    async def _stream(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        channels, replay, admission = await self._admit(request, **kwargs)
        assert isinstance(request, ASGIRequest)
        if self.final_events:
            limits.check(request)  # before the log is read
            if await self._has_received_all(request, channels):
                return HttpResponse(status=204)

        async def snapshot() -> object:
            try:
                take = self.get_snapshot
                return await (take if iscoroutinefunction(take) else sync_to_async(take))(request, channels)
            finally:
                await release_request()

        subscriber = Subscriber(
            channels,
            last_event_id=self.get_cursor(request),
            replay=replay,
            snapshot=snapshot if self.get_snapshot is not None else None,
            request=request,
            final_events=self.final_events,
            admission=admission,
            slot=limits.take(request),
            caller=limits.caller_of(request),
            preamble=self.preamble,
        )
        # It is created first, because it closes the subscriber if what follows fails.
        response = EventStreamResponse(
            subscriber, timeout=_lifetime(self.timeout, token_of(request)), end=_check_end(request)
        )
        response.serve_to(request.scope)
        await close_request_connections()  # reads of the log must not wait for a connection of this request
        try:
            # Not at the first byte, so that the stream has all messages that are published after the view has answered.
            await subscriber.open()
        except Exception:
            # Not a 500, because an EventSource would never reconnect: the stream tries again or sends stream-error.
            failures.report(logger, "The log could not be read when a stream was opened.")
        return response

    async def _has_received_all(self, request: HttpRequest, channels: tuple[str, ...]) -> bool:
        """Return True if the client has received the final event, and nothing was published since."""
        cursor = self.get_cursor(request) or ""
        if not is_position(cursor):
            return False
        await close_request_connections()  # as in _stream
        try:
            newest = await executor.run(log.newest_of, channels)
            if newest is None or newest.event not in self.final_events or int(cursor) < newest.position:
                return False
            return await executor.run(log.continues, int(cursor))  # else it gets a reset
        except Error:
            return False  # the stream tries again


def _lifetime(timeout: float | None, token: Token | None = None) -> float | None:
    """Return the stream's lifetime in seconds, or None without a limit.

    It has jitter of up to a fifth of MAX_STREAM_SECONDS, so that clients that reconnected together after a restart do
    not do so again each time.
    """
    ends = [] if timeout is None else [timeout]
    if (limit := settings.MAX_STREAM_SECONDS) is not None:
        ends.append(limit * random.uniform(0.8, 1))  # noqa: S311
    if token is not None:
        ends.append(max(0.001, token.expires_at - clock.time()))
    return min(ends, default=None)


def _check_channels(channels: Sequence[str]) -> tuple[str, ...]:
    try:
        checked = validate_channels(channels)
    except InvalidChannel as error:
        raise HTTPError(400, "invalid-channel", str(error)) from None
    if not checked:
        raise HTTPError(400, "missing-channel", "Name the channels to read, as in ?channel=news&channel=weather.")
    if len(checked) > (limit := settings.MAX_CHANNELS_PER_STREAM):
        text = f"A stream has at most {limit} channels (STREAMS['MAX_CHANNELS_PER_STREAM']); got {len(checked)}."
        raise HTTPError(400, "too-many-channels", text)
    return checked


def _check_replay(request: HttpRequest) -> int:
    asked, limit = request.GET.get("replay", "0"), settings.MAX_REPLAY_MESSAGES
    if is_position(asked) and len(asked) <= len(str(limit)) and int(asked) <= limit:
        return int(asked)
    text = f"replay is a whole number from 0 to {limit} (STREAMS['MAX_REPLAY_MESSAGES']); got {asked[:100]!r}."
    raise HTTPError(400, "invalid-replay", text)


def _check_end(request: HttpRequest) -> str:
    if (end := request.GET.get("end", ENDS[0])) in ENDS:
        return end
    raise HTTPError(400, "invalid-end", f"end is {' or '.join(ENDS)}; got {end[:100]!r}.")


def _check_refuse(request: HttpRequest) -> None:
    if (way := request.GET.get("refuse", refusals.STATUS)) not in refusals.WAYS:
        raise HTTPError(400, "invalid-refuse", f"refuse is {' or '.join(refusals.WAYS)}; got {way[:100]!r}.")
