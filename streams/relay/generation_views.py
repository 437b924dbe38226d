"""Generations over HTTP: ask, look, follow, cancel, ask again. Each is its owner's alone."""

from __future__ import annotations

import datetime
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import wraps
from typing import Any

from django.core import signing
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt

from streams import EventStreamResponse, log, sse, threads
from streams.events import encode_data
from streams.policies import BasePolicy
from streams.relay import background, generations, housekeeping
from streams.relay.access import Caller, admit, bearer, check_access, identify
from streams.relay.conf import settings
from streams.relay.errors import RelayError
from streams.relay.generations import END_EVENT, Answer
from streams.relay.models import Generation
from streams.relay.requests import check_request, parse_payload
from streams.relay.upstreams import get_upstream, upstream_for
from streams.release import close_request_connections
from streams.views import EventStreamView

logger = logging.getLogger("streams.relay")

SIGNED_AS = "streams.relay.generation"

View = Callable[..., Coroutine[Any, Any, HttpResponseBase]]


def _answering(*methods: str) -> Callable[[View], View]:
    """A view of these methods that tells its RelayErrors as JSON.

    Exempt from the CSRF middleware, for whoever comes with a token instead of a session; for a session, access.py does
    what the middleware would. Non-atomic, for what it does are transactions of their own.
    """

    def decorate(view: View) -> View:
        @csrf_exempt
        @transaction.non_atomic_requests
        @wraps(view)
        async def answering(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                if request.method not in methods:
                    raise RelayError(405, "method-not-allowed", f"Use {' or '.join(methods)}; got {request.method}.")
                return await view(request, *args, **kwargs)
            except RelayError as error:
                response = refused(error)
                if error.status == 405:
                    response.headers["Allow"] = ", ".join(methods)
                return response

        return answering

    return decorate


def refused(error: RelayError) -> JsonResponse:
    """The error as a response."""
    response = JsonResponse(error.as_json(), status=error.status)
    response.headers["Cache-Control"] = "no-store"
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


# --- Asking -----------------------------------------------------------------------------------------------------------


@_answering("POST")
async def ask(request: HttpRequest) -> HttpResponseBase:
    """Start an answer: 201, or 200 for one that the same Idempotency-Key has started before."""
    payload = parse_payload(_body(request))
    caller = await admit(request)
    asked = payload if isinstance(payload, Mapping) else {}
    upstream = upstream_for(asked.get("model"))
    body = check_request({**asked, "stream": True} if asked else payload, upstream)
    return await _start(caller, body, upstream.name, request.headers.get("Idempotency-Key") or None)


@_answering("POST")
async def regenerate(request: HttpRequest, id: str) -> HttpResponseBase:
    """Ask the same again: a new generation, whatever became of the first."""
    answer, caller = await _find(request, id)
    await check_access(request, caller)
    generation = answer.generation
    upstream = get_upstream(generation.upstream) if generation.upstream in settings.UPSTREAMS else get_upstream()
    # Checked again: the site's limits and models may be others now.
    body = check_request(_asked(generation.request), upstream)
    return await _start(caller, body, upstream.name, request.headers.get("Idempotency-Key") or None)


async def _start(caller: Caller, body: Mapping[str, Any], upstream: str, key: str | None) -> HttpResponseBase:
    _check_storable(body)
    await close_request_connections()
    generation, is_new = await threads.run(generations.create, caller, body, upstream, key, pool=threads.WAITING)
    if is_new:
        background.call()
    answer = Answer(generation, generation.text, generation.pieces, generation.start_position)
    return JsonResponse({**_state(answer), "token": _sign(generation)}, status=201 if is_new else 200)


def _asked(request: Mapping[str, Any]) -> dict[str, Any]:
    """A stored request as its client sent it."""
    return {key: value for key, value in request.items() if key != "stream_options"}


def _body(request: HttpRequest) -> bytes:
    try:
        return request.body
    except Exception as error:  # Django's RequestDataTooBig, or a client that left in the middle
        raise RelayError(413, "request-too-large", "The request's body could not be read, or is too large.") from error


def _check_storable(value: Any) -> None:
    """Refuse what PostgreSQL's JSON cannot hold."""
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise RelayError(
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


@_answering("GET", "HEAD")
async def look(request: HttpRequest, id: str) -> HttpResponseBase:
    """Its state, and its text so far."""
    answer, _ = await _find(request, id)
    return _fresh(JsonResponse(_state(answer, token=_token(request))))


@_answering("POST")
async def cancel(request: HttpRequest, id: str) -> HttpResponseBase:
    """Stop it. One that has ended stays as it is."""
    await _find(request, id)
    await close_request_connections()
    try:
        generation = await threads.run(generations.cancel, id, pool=threads.WAITING)
    except Generation.DoesNotExist:
        raise _unknown() from None
    background.forget(id)
    answer = Answer(generation, generation.text, generation.pieces, generation.end_position or 0)
    return _fresh(JsonResponse(_state(answer, token=_token(request))))


def _state(answer: Answer, token: str = "") -> dict[str, Any]:
    generation = answer.generation
    error = {"code": generation.error_code, "message": generation.error_message} if generation.error_code else None
    token = token or _sign(generation)

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


def _fresh(response: JsonResponse) -> JsonResponse:
    response.headers["Cache-Control"] = "no-store"
    return response


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
            answer, _ = await _find(request, kwargs["id"])
        except RelayError as error:
            return refused(error)
        self._generation = answer.generation
        if answer.generation.is_active:
            return await super().get(request, **kwargs)
        await close_request_connections()
        return await _ended_stream(answer, super().get_cursor(request))

    async def head(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        try:
            await _find(request, kwargs["id"])
        except RelayError as error:
            return HttpResponse(status=error.status)
        return await super().head(request, **kwargs)

    def get_channels(self, request: HttpRequest, **kwargs: Any) -> Sequence[str]:
        return [Generation(pk=kwargs["id"]).channel]

    def get_policy(self) -> BasePolicy:
        return _Owner()

    def get_cursor(self, request: HttpRequest) -> str | None:
        return super().get_cursor(request) or str(self._generation.start_position)

    async def get_snapshot(self, request: HttpRequest, channels: Sequence[str]) -> object:
        return _snapshot(await threads.run(generations.read, self._generation.pk))


def _snapshot(answer: Answer) -> dict[str, Any]:
    return {"n": answer.pieces, "text": answer.text, "state": answer.generation.state}


async def _ended_stream(answer: Answer, requested: str | None) -> HttpResponseBase:
    """What a client of an answer that has ended has not had yet, and the end."""
    generation, last = answer.generation, answer.position
    is_position = requested is not None and requested.isascii() and requested.isdigit() and len(requested) <= 18
    cursor = int(requested) if requested is not None and is_position else None
    if cursor is not None and cursor >= last:
        return HttpResponse(status=204)
    is_within = requested is None or (cursor is not None and cursor >= generation.start_position)
    if is_within and not generation.compacted_at:
        after = generation.start_position if cursor is None else cursor
        pieces = await threads.run(_pieces, generation, after, last)
        if pieces is not None:
            return EventStreamResponse(_each(pieces))
    blocks = []
    if requested is None:  # all of it, as one piece: nothing is missing to who has had nothing
        if answer.text:
            blocks.append(sse.encode(_json({"n": 0, "text": answer.text}), id=generation.start_position))
    else:
        told = {"reason": "pruned" if is_within else "unknown-id", "requested": requested[:100]}
        blocks.append(sse.encode(_json({**told, "earliest": None, "head": last}), event="stream-reset"))
        blocks.append(sse.encode(_json(_snapshot(answer)), event="stream-snapshot"))
    blocks.append(sse.encode(_json(generations.told(generation)), event=END_EVENT, id=last))
    return EventStreamResponse(_each(blocks))


def _pieces(generation: Generation, after: int, last: int) -> list[bytes] | None:
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


def _sign(generation: Generation) -> str:
    """A token that stands for the owner of this one generation, in a URL too: an EventSource has no headers."""
    return signing.TimestampSigner(salt=SIGNED_AS).sign(generation.pk).partition(":")[2]


def _is_good(token: str, id: str) -> bool:
    signer = signing.TimestampSigner(salt=SIGNED_AS)
    try:
        signer.unsign(f"{id}:{token}", max_age=datetime.timedelta(seconds=settings.GENERATION_TOKEN_SECONDS))
    except signing.BadSignature:
        return False
    return True


def _token(request: HttpRequest) -> str:
    """The token that the request carries, in its URL or as its Authorization."""
    return request.GET.get("token") or bearer(request) or ""


async def _find(request: HttpRequest, id: str) -> tuple[Answer, Caller]:
    """The generation, and its owner, if the request is the owner's. Raises RelayError: 401, 403 or 404."""
    has_token = _is_good(_token(request), id)
    caller = None if has_token else await identify(request)
    await close_request_connections()
    try:
        answer = await threads.run(generations.read, id)
        if answer.generation.is_active and await threads.run(housekeeping.attend_to, answer.generation):
            answer = await threads.run(generations.read, id)
    except Generation.DoesNotExist:
        raise _unknown() from None
    generation = answer.generation
    if caller is None:  # whoever has the token acts for the owner
        return answer, Caller(await threads.run(generations.owner_of, generation), generation.caller)
    if caller.user is None or caller.user.pk != generation.owner_id:
        raise RelayError(403, "forbidden", "This answer is somebody else's, or its token has expired.")
    return answer, caller


def _unknown() -> RelayError:
    return RelayError(404, "not-found", "There is no such answer; it may have been deleted, as old ones are.")
