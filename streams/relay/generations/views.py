"""Generations over HTTP: ask, look, follow, cancel, ask again. Each is its owner's alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse

from streams import threads
from streams.exceptions import HTTPError
from streams.json_responses import json_response
from streams.relay.access import Principal, admit, check_access
from streams.relay.conf import settings
from streams.relay.endpoints import api_view, read_payload
from streams.relay.generations import background, chunks, store, tokens
from streams.relay.generations.chunks import Answer
from streams.relay.generations.ownership import find, not_found
from streams.relay.limits import count_question
from streams.relay.models import Generation
from streams.relay.proxy.requests import check_request
from streams.relay.upstreams import get_upstream, upstream_for
from streams.release import close_request_connections

logger = logging.getLogger("streams.relay")


# --- Asking -----------------------------------------------------------------------------------------------------------


@api_view("POST")
async def ask(request: HttpRequest) -> HttpResponseBase:
    """Start an answer: 201, or 200 for one that the same Idempotency-Key has started before."""
    principal = await admit(request)  # first: nobody else has a megabyte of JSON read here
    count_question(principal.key)
    payload = read_payload(request)
    asked = payload if isinstance(payload, Mapping) else {}
    upstream = upstream_for(asked.get("model"))
    body = check_request({**asked, "stream": True} if asked else payload, upstream)
    if "tools" in body:
        raise HTTPError(
            400, "unsupported-tools", "A generation keeps text alone. Ask the relay where tools are called."
        )
    return await _start(request, principal, body, upstream.name, sent=payload)


@api_view("POST")
async def regenerate(request: HttpRequest, id: str) -> HttpResponseBase:
    """Ask the same again: a new generation, whatever became of the first.

    The token stands for one answer, so that it is not enough for another one where the first is a user's.
    """
    found = await find(request, id)
    generation = found.answer.generation
    if generation.owner_id is not None and found.has_token:
        principal = await admit(request)
        if principal.user is None or principal.user.pk != generation.owner_id:
            raise HTTPError(403, "forbidden", "Only who has asked may ask again. Sign in, or send your key.")
    else:
        principal = found.principal
        await check_access(request, principal)
    count_question(principal.key)
    upstream = get_upstream(generation.upstream) if generation.upstream in settings.UPSTREAMS else get_upstream()
    # Checked again: the site's limits and models may be others now.
    body = check_request({key: value for key, value in generation.request.items() if key != "stream_options"}, upstream)
    return await _start(request, principal, body, upstream.name, sent={"regenerate": id})


async def _start(
    request: HttpRequest, principal: Principal, body: Mapping[str, Any], upstream: str, *, sent: object
) -> HttpResponseBase:
    _check_storable(body)
    await close_request_connections()
    create = partial(store.create, principal, body, upstream, request.headers.get("Idempotency-Key") or None, sent=sent)
    generation, is_new = await threads.run(create, pool=threads.WAITING)
    if is_new:
        background.call()
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
    found = await find(request, id)
    background.call_for(found.answer.generation)
    return json_response(_state(found.answer, found.token))


@api_view("POST")
async def cancel(request: HttpRequest, id: str) -> HttpResponseBase:
    """Stop it. One that has ended stays as it is."""
    found = await find(request, id)
    await close_request_connections()
    try:
        generation = await threads.run(store.cancel, id, pool=threads.WAITING)
    except Generation.DoesNotExist:
        raise not_found() from None
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


# --- Whose it is ------------------------------------------------------------------------------------------------------
