"""A generation as an event stream: live from the log while it runs, and from the log or its row when it has ended."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from django.db import Error
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from streams import EventStreamResponse, log, outages, sse, threads
from streams.conf import settings as core_settings
from streams.events import encode_data
from streams.exceptions import HTTPError
from streams.policies import BasePolicy
from streams.relay.access import bearer
from streams.relay.endpoints import error_response, unavailable
from streams.relay.generations import background, chunks, endings, tokens
from streams.relay.generations.chunks import END_EVENT, Answer
from streams.relay.generations.ownership import find_row
from streams.relay.models import Generation
from streams.release import close_request_connections
from streams.subscriber import is_position
from streams.tokens import put, read_token
from streams.views import EventStreamView

logger = logging.getLogger("streams.relay")


class _Owner(BasePolicy):
    """Whoever comes here was found to be the owner."""

    async def arefused(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        return []


class GenerationEvents(EventStreamView):
    """An answer as an event stream: from its beginning or from the client's cursor, to its end.

    Its pieces are events of the default type, `{"n": number of the piece, from 0, "text": …}`. `end` is the last:
    `{"state", "finish_reason", "usage", "error"}`. A client that comes back after it gets a 204. Where pieces that a
    client has not had are no longer in the log, a `stream-reset` says so, and a `stream-snapshot` has all of the text:
    `{"n": pieces in it, "text", "state"}`; pieces with a smaller number that follow it are in it already.
    """

    final_events = (END_EVENT,)

    async def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        try:
            self._generation, _, token = await find_row(request, kwargs["id"])
            if self._generation.is_active:
                if token is None and bearer(request) is not None:
                    # A stream that a key has opened ends with what the key depends on, as if a token had opened it.
                    own = read_token(tokens.make(self._generation))
                    await threads.run(put, request, own)
                background.call_for(self._generation)
                return await super().get(request, **kwargs)
            await close_request_connections()
            return await _ended_stream(self._generation, super().get_cursor(request))
        except HTTPError as error:
            return error_response(error)
        except Error as error:
            if outages.is_not_migrated(error):
                logger.exception("An answer could not be read when its stream was opened. %s", outages.explain(error))
                return error_response(unavailable(error))
            if not outages.is_unavailable(error):
                raise
            # Not a 503, at which an EventSource gives up for good: a stream that ends at once, so that it comes back.
            logger.warning("An answer could not be read when its stream was opened.", exc_info=True)
            return EventStreamResponse(_each([f"retry: {core_settings.RETRY_MILLISECONDS}\n\n".encode()]))

    async def head(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        try:
            await find_row(request, kwargs["id"])
        except HTTPError as error:
            return HttpResponse(status=error.status)
        return await super().head(request, **kwargs)

    async def _has_had_all(self, request: HttpRequest, channels: Sequence[str]) -> bool:
        return False  # get() has looked at the row, which knows its end

    def get_channels(self, request: HttpRequest, **kwargs: Any) -> Sequence[str]:
        return [Generation(pk=kwargs["id"]).channel]

    def get_policy(self) -> BasePolicy:
        return _Owner()

    def get_cursor(self, request: HttpRequest) -> str | None:
        return super().get_cursor(request) or str(self._generation.start_position)

    async def get_snapshot(self, request: HttpRequest, channels: Sequence[str]) -> object:
        return _snapshot(await threads.run(chunks.read, self._generation.pk))


def _snapshot(answer: Answer) -> dict[str, Any]:
    return {"n": answer.pieces, "text": answer.text, "state": answer.generation.state}


async def _ended_stream(generation: Generation, requested: str | None) -> HttpResponseBase:
    """What a client of an answer that has ended has not had yet, and the end."""
    assert generation.end_position is not None
    last = generation.end_position
    cursor = int(requested) if requested is not None and is_position(requested) else None
    # A cursor that the log does not go on from says nothing about which pieces its client has had.
    continues = cursor is not None and await threads.run(log.continues, cursor)
    if cursor is not None and continues and cursor >= last:
        return HttpResponse(status=204)
    is_within = requested is None or (cursor is not None and continues and cursor >= generation.start_position)
    if is_within and not generation.compacted_at:
        after = generation.start_position if cursor is None else cursor
        events = await threads.run(_events, generation, after, last)
        if events is not None:
            return EventStreamResponse(_each(events))
    blocks = []
    if requested is None:  # all of it, as one piece: nothing is missing to who has had nothing
        if generation.text:
            blocks.append(sse.encode(_json({"n": 0, "text": generation.text}), id=generation.start_position))
    else:
        whole = Answer(generation, generation.text, generation.pieces, last)
        reason = "malformed-id" if cursor is None else "pruned" if is_within else "unknown-id"
        told = {"reason": reason, "requested": requested[:100]}
        blocks.append(sse.encode(_json({**told, "earliest": None, "head": last}), event="stream-reset"))
        blocks.append(sse.encode(_json(_snapshot(whole)), event="stream-snapshot"))
    blocks.append(sse.encode(_json(endings.told(generation)), event=END_EVENT, id=last))
    return EventStreamResponse(_each(blocks))


def _events(generation: Generation, after: int, last: int) -> list[bytes] | None:
    """The events in (after, last], encoded; None where some of them have been pruned."""
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
