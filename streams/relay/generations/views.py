"""Generations over HTTP: ask, look, follow, cancel, ask again. Each is its owner's alone."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import Error
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import reverse

from streams import EventStreamResponse, log, outages, shutdown, sse, threads
from streams.conf import settings as core_settings
from streams.events import encode_data
from streams.exceptions import HTTPError
from streams.json_responses import json_response
from streams.policies import BasePolicy
from streams.relay.access import Caller, admit, bearer, check_access, identify
from streams.relay.conf import settings
from streams.relay.endpoints import api_view, error_response, read_payload, unavailable
from streams.relay.generations import background, chunks, housekeeping, store, tokens
from streams.relay.generations.chunks import END_EVENT, Answer
from streams.relay.limits import count_question
from streams.relay.models import ID_LENGTH, Generation
from streams.relay.proxy.requests import check_request
from streams.relay.upstreams import get_upstream, upstream_for
from streams.release import close_request_connections, request_context
from streams.subscriber import is_position
from streams.tokens import put, read_token
from streams.views import EventStreamView

logger = logging.getLogger("streams.relay")

ID = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")


# --- Asking -----------------------------------------------------------------------------------------------------------


@api_view("POST")
async def ask(request: HttpRequest) -> HttpResponseBase:
    """Start an answer: 201, or 200 for one that the same Idempotency-Key has started before."""
    caller = await admit(request)  # first: nobody else has a megabyte of JSON read here
    count_question(caller.key)
    payload = read_payload(request)
    asked = payload if isinstance(payload, Mapping) else {}
    upstream = upstream_for(asked.get("model"))
    body = check_request({**asked, "stream": True} if asked else payload, upstream)
    if "tools" in body:
        raise HTTPError(
            400, "unsupported-tools", "A generation keeps text alone. Ask the relay where tools are called."
        )
    return await _start(request, caller, body, upstream.name, sent=payload)


@api_view("POST")
async def regenerate(request: HttpRequest, id: str) -> HttpResponseBase:
    """Ask the same again: a new generation, whatever became of the first.

    The token stands for one answer, so that it is not enough for another one where the first is a user's.
    """
    found = await _find(request, id)
    generation = found.answer.generation
    if generation.owner_id is not None and found.has_token:
        caller = await admit(request)
        if caller.user is None or caller.user.pk != generation.owner_id:
            raise HTTPError(403, "forbidden", "Only who has asked may ask again. Sign in, or send your key.")
    else:
        caller = found.caller
        await check_access(request, caller)
    count_question(caller.key)
    upstream = get_upstream(generation.upstream) if generation.upstream in settings.UPSTREAMS else get_upstream()
    # Checked again: the site's limits and models may be others now.
    body = check_request({key: value for key, value in generation.request.items() if key != "stream_options"}, upstream)
    return await _start(request, caller, body, upstream.name, sent={"regenerate": id})


async def _start(
    request: HttpRequest, caller: Caller, body: Mapping[str, Any], upstream: str, *, sent: object
) -> HttpResponseBase:
    _check_storable(body)
    await close_request_connections()
    create = partial(store.create, caller, body, upstream, request.headers.get("Idempotency-Key") or None, sent=sent)
    generation, is_new = await threads.run(create, pool=threads.WAITING)
    if is_new:
        _call_worker()
        answer = Answer(generation, "", 0, generation.start_position)
    else:
        answer = await threads.run(chunks.read, generation.pk)
    token = tokens.make(answer.generation)
    return json_response({**_state(answer, token), "token": token}, 201 if is_new else 200)


def _check_storable(value: Any) -> None:
    """Refuse what PostgreSQL's JSON cannot hold."""
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise HTTPError(
                400, "invalid-text", "Texts cannot hold NUL (U+0000) or halves of characters (lone surrogates)."
            )
    elif isinstance(value, Mapping):
        for key, each in value.items():
            _check_storable(key)
            _check_storable(each)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_storable(each)


# --- Looking ----------------------------------------------------------------------------------------------------------


@api_view("GET", "HEAD")
async def look(request: HttpRequest, id: str) -> HttpResponseBase:
    """Its state, and its text so far."""
    found = await _find(request, id)
    _call_for(found.answer.generation)
    return json_response(_state(found.answer, found.token))


def _call_for(generation: Generation) -> None:
    """Have a worker look, where the generation waits for one: the process that was asked may have ended since."""
    if generation.state == Generation.State.QUEUED:
        _call_worker()


def _call_worker() -> None:
    if request_context() is not None:
        shutdown.listen()  # it has something to say at this process's end, and nobody may have opened a stream here yet
    background.call()


@api_view("POST")
async def cancel(request: HttpRequest, id: str) -> HttpResponseBase:
    """Stop it. One that has ended stays as it is."""
    found = await _find(request, id)
    await close_request_connections()
    try:
        generation = await threads.run(store.cancel, id, pool=threads.WAITING)
    except Generation.DoesNotExist:
        raise _unknown() from None
    background.forget(id)
    answer = Answer(generation, generation.text, generation.pieces, generation.end_position or 0)
    return json_response(_state(answer, found.token))


def _state(answer: Answer, token: str) -> dict[str, Any]:
    generation = answer.generation
    error = {"code": generation.error_code, "message": generation.error_message} if generation.error_code else None

    def url(name: str) -> str:
        return f"{reverse(f'streams_relay:{name}', args=[generation.pk])}?token={token}"

    return {
        "id": generation.pk,
        "state": generation.state,
        "channel": generation.channel,
        "model": generation.model,
        "text": answer.text,
        "pieces": answer.pieces,
        "finish_reason": generation.finish_reason or None,
        "usage": generation.usage,
        "error": error,
        "created_at": generation.created_at,
        "ended_at": generation.ended_at,
        "url": url("generation"),
        "events_url": url("generation-events"),
        "cancel_url": url("generation-cancel"),
        "regenerate_url": url("generation-regenerate"),
    }


# --- Following --------------------------------------------------------------------------------------------------------


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
            self._generation, _, token = await _owned(request, kwargs["id"])
            if self._generation.is_active:
                if token is None and bearer(request) is not None:
                    # A stream that a key has opened ends with what the key depends on, as if a token had opened it.
                    own = read_token(tokens.make(self._generation))
                    await threads.run(put, request, own)
                _call_for(self._generation)
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
            await _owned(request, kwargs["id"])
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
    blocks.append(sse.encode(_json(store.told(generation)), event=END_EVENT, id=last))
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


# --- Whose it is ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """A generation, the caller who is its owner or acts for the owner, and a token for its URLs."""

    answer: Answer
    caller: Caller
    token: str
    has_token: bool


async def _find(request: HttpRequest, id: str) -> _Found:
    """The generation with its text, if the request is its owner's. Raises HTTPError: 401, 403 or 404."""
    generation, caller, token = await _owned(request, id)
    try:
        answer = await threads.run(chunks.read, id)
    except Generation.DoesNotExist:  # deleted meanwhile
        raise _unknown() from None
    return _Found(answer, caller, token or tokens.make(generation), token is not None)


async def _owned(request: HttpRequest, id: str) -> tuple[Generation, Caller, str | None]:
    """The generation's row, the caller, and the generation's token if the request carries it.

    Raises HTTPError, 401, 403 or 404, if the request is not its owner's.
    """
    if not ID.fullmatch(id):
        raise _unknown()
    token = await tokens.take(request)
    caller = None if token is not None else await identify(request)
    await close_request_connections()
    try:
        generation = await threads.run(chunks.get, id)
        if generation.is_active and await threads.run(housekeeping.attend_to, generation):
            generation = await threads.run(chunks.get, id)
    except Generation.DoesNotExist:
        raise _unknown() from None
    owner = generation.owner
    if owner is None and generation.owner_id is not None:  # deleted, and so is the answer in a moment
        raise _unknown()
    if token is not None and tokens.is_of(request, generation):
        return generation, Caller(owner, generation.caller), token
    if caller is None:
        tokens.ignore(request)
        caller = await identify(request)
        await close_request_connections()
    if caller.user is None or owner is None or caller.user.pk != owner.pk:
        raise HTTPError(403, "forbidden", "This answer is somebody else's, or its token has expired.")
    return generation, caller, None


def _unknown() -> HTTPError:
    return HTTPError(404, "not-found", "There is no such answer; it may have been deleted, as old ones are.")
