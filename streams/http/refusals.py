"""Refusals in band: a refusal that passes is sent as a stream with one event, to clients that give up at a status.

The standard (WHATWG HTML, section 9.2.3) ends an EventSource for good at every status but 200. After a stream that
ends, it reconnects.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator

from django.http import HttpRequest

from streams.conf import settings
from streams.exceptions import HTTPError
from streams.http.json_responses import record_refusal
from streams.http.response import EventStreamResponse
from streams.protocol import sse

# The values of `?refuse=`.
STATUS, EVENT = WAYS = ("status", "event")

# A limit is reached, or the database is away. Other refusals stay the same until the request changes.
PASSING = (429, 503)


def is_in_band(request: HttpRequest, error: HTTPError) -> bool:
    """Return True if `error` is to be sent as an event, with the status 200.

    `?refuse=` decides. Without it, REFUSE_IN_BAND decides for requests whose Accept header names event streams, as
    every EventSource's does. The header `*/*` of curl and of other programs names none.
    """
    if error.status not in PASSING:
        return False
    if (way := request.GET.get("refuse")) is not None:
        return way == EVENT
    return settings.REFUSE_IN_BAND and "text/event-stream" in request.headers.get("Accept", "").lower()


def in_band(request: HttpRequest, error: HTTPError) -> EventStreamResponse:
    """Return a stream of one `stream-error` event with the code and the message of `error`, which then ends.

    The event has no id, so that the client keeps its cursor. It takes no slot and reads no log. With `?end=error`, the
    stream ends incompletely, because its client would take a clean end as the end of the stream.
    """
    record_refusal(error)
    data = json.dumps({"code": error.code, "message": str(error)}, ensure_ascii=False)
    block = sse.encode(data, event="stream-error", retry=_retry_milliseconds(error))
    response = EventStreamResponse(_nothing(), end="error" if request.GET.get("end") == "error" else "clean")
    response.serve_to(getattr(request, "scope", {}))
    response.stop(block)
    return response


def _retry_milliseconds(error: HTTPError) -> int:
    """Return a time for `retry:` that is not shorter than Retry-After, with jitter of up to half of it."""
    seconds = error.headers.get("Retry-After", "")
    milliseconds = int(seconds) * 1000 if seconds.isdigit() else settings.RETRY_MILLISECONDS
    return round(milliseconds * random.uniform(1, 1.5))  # noqa: S311


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield
