"""A generation as an event stream: live from the log while it runs, and from the log or its row when it has ended."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from django.db import Error
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from streams import EventStreamResponse, log
from streams.conf import settings as core_settings
from streams.exceptions import HTTPError
from streams.policies import BasePolicy
from streams.protocol import sse
from streams.protocol.events import encode_data
from streams.protocol.sse import is_position
from streams.relay.endpoints import error_response, unavailable
from streams.relay.generations import background, chunks, endings, tokens
from streams.relay.generations.chunks import END_EVENT
from streams.relay.generations.ownership import find
from streams.relay.models import Generation
from streams.runtime import executor, failures
from streams.runtime.request_resources import close_request_connections
from streams.tokens import attach_token, bearer, read_token
from streams.views import EventStreamView

logger = logging.getLogger("streams.relay")


class _Owner(BasePolicy):
    """Allows everything, because get() has already checked that the request is from the owner."""

    def denied_channels(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        return []

    async def adenied_channels(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        return []


class GenerationEvents(EventStreamView):
    """An answer as an event stream: from its start or from the client's cursor, to its end.

    Chunks are events of the default type, with the data `{"n": number of the chunk, from 0, "text": …}`. The last event
    is `end`, with the data `{"state", "finish_reason", "usage", "error"}`. A client that reconnects after it gets a
    204. If chunks that the client has not received are no longer in the log, the stream sends `stream-reset`, and then
    `stream-snapshot` with the whole text: `{"n": number of chunks in it, "text", "state"}`. Chunks that follow it with
    a smaller number are already part of it.
    """

    final_events = (END_EVENT,)

    async def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        try:
            self._generation, _, token = await find(request, kwargs["id"])
            if self._generation.is_active:
                if token is None and bearer(request) is not None:
                    # So that this stream ends when the key becomes invalid, as if a token had opened it.
                    own = read_token(tokens.make(self._generation))
                    await executor.run(attach_token, request, own)
                background.call_for(self._generation)
                return await super().get(request, **kwargs)
            await close_request_connections()
            return await _ended_stream(self._generation, super().get_cursor(request))
        except HTTPError as error:
            return error_response(error)
        except Error as error:
            if failures.is_not_migrated(error):
                logger.exception("Could not read an answer to open its stream. %s", failures.explain(error))
                return error_response(unavailable(error))
            if not failures.is_unavailable(error):
                raise
            # Not a 503, because an EventSource would never reconnect. It reconnects after a stream that ends at once.
            logger.warning("Could not read an answer to open its stream.", exc_info=True)
            return EventStreamResponse(_each([f"retry: {core_settings.RETRY_MILLISECONDS}\n\n".encode()]))

    async def head(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        try:
            await find(request, kwargs["id"])
        except HTTPError as error:
            return HttpResponse(status=error.status)
        return await super().head(request, **kwargs)

    async def _has_received_all(self, request: HttpRequest, channels: Sequence[str]) -> bool:
        return False  # get() has already handled answers that have ended

    def get_channels(self, request: HttpRequest, **kwargs: Any) -> Sequence[str]:
        return [Generation(pk=kwargs["id"]).channel]

    def get_policy(self) -> BasePolicy:
        return _Owner()

    def get_cursor(self, request: HttpRequest) -> str | None:
        return super().get_cursor(request) or str(self._generation.start_position)

    async def get_snapshot(self, request: HttpRequest, channels: Sequence[str]) -> object:
        return _snapshot(await executor.run(chunks.read, self._generation.pk))


def _snapshot(generation: Generation) -> dict[str, Any]:
    return {"n": generation.chunks, "text": generation.text, "state": generation.state}


async def _ended_stream(generation: Generation, requested: str | None) -> HttpResponseBase:
    """Return a response with the events that the client has not received, and the end."""
    assert generation.end_position is not None
    last = generation.end_position
    cursor = int(requested) if requested is not None and is_position(requested) else None
    # A cursor from a history that was lost does not show which chunks the client has received.
    continues = cursor is not None and await executor.run(log.continues, cursor)
    if cursor is not None and continues and cursor >= last:
        return HttpResponse(status=204)
    is_within = requested is None or (cursor is not None and continues and cursor >= generation.start_position)
    if is_within and not generation.compacted_at:
        after = generation.start_position if cursor is None else cursor
        events = await executor.run(_events, generation, after, last)
        if events is not None:
            return EventStreamResponse(_each(events))
    blocks = []
    if requested is None:  # a new client gets the whole text as one chunk
        if generation.text:
            blocks.append(sse.encode(_json({"n": 0, "text": generation.text}), id=generation.start_position))
    else:
        reason = "malformed-id" if cursor is None else "pruned" if is_within else "unknown-id"
        data = {"reason": reason, "requested": requested[:100]}
        blocks.append(sse.encode(_json({**data, "earliest": None, "head": last}), event="stream-reset"))
        blocks.append(sse.encode(_json(_snapshot(generation)), event="stream-snapshot"))
    blocks.append(sse.encode(_json(endings.end_data(generation)), event=END_EVENT, id=last))
    return EventStreamResponse(_each(blocks))


def _events(generation: Generation, after: int, last: int) -> list[bytes] | None:
    """Return the encoded events in (after, last], or None if some of them were pruned."""
    blocks = []
    through = after
    while through < last:
        page = log.page([generation.channel], through, last)
        if page.pruned:
            return None
        blocks += [message.encode() for message in page.messages]
        through = page.through
    return blocks


async def _each(blocks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


def _json(data: Any) -> str:
    return encode_data(data, max_bytes=None)
