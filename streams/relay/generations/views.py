"""Views of generations: create, read, cancel and regenerate. Only the owner has access. See stream.py for events."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponseBase

from streams.exceptions import HTTPError
from streams.http.json_responses import json_response
from streams.http.mounts import namespace_of, reverse_mounted
from streams.relay.access import Principal, admit, check_access
from streams.relay.conf import settings
from streams.relay.endpoints import api_view, read_payload
from streams.relay.generations import background, chunks, store, tokens
from streams.relay.generations.chunks import storable
from streams.relay.generations.endings import end_data
from streams.relay.generations.ownership import find, not_found
from streams.relay.limits import count_question
from streams.relay.models import Generation
from streams.relay.proxy.requests import check_request
from streams.relay.upstreams import get_upstream, upstream_for
from streams.runtime import executor
from streams.runtime.request_resources import close_request_connections


@api_view("POST")
async def ask(request: HttpRequest) -> HttpResponseBase:
    """Start an answer: 201, or 200 if the same Idempotency-Key has started it before."""
    principal = await admit(request)  # before the body is read: it can be a megabyte
    count_question(principal.key)
    payload = read_payload(request)
    asked = payload if isinstance(payload, Mapping) else {}
    upstream = upstream_for(asked.get("model"))
    body = check_request({**asked, "stream": True} if asked else payload, upstream)
    if "tools" in body:
        message = "A generation stores text only. To call tools, use the relay (v1/chat/completions)."
        raise HTTPError(400, "unsupported-tools", message)
    return await _start(request, principal, body, upstream.name, sent=payload)


@api_view("POST")
async def regenerate(request: HttpRequest, id: str) -> HttpResponseBase:
    """Start a new answer to the same request, whatever the state of the first one.

    A token grants access to one answer only. So if the first answer belongs to a user, that user must be logged in.
    """
    generation, principal, token = await find(request, id)
    if generation.owner_id is not None and token is not None:
        principal = await admit(request)
        if principal.user is None or principal.user.pk != generation.owner_id:
            raise HTTPError(
                403, "forbidden", "Only the user who started this answer can regenerate it. Log in, or send your key."
            )
    else:
        await check_access(request, principal)
    count_question(principal.key)
    upstream = get_upstream(generation.upstream) if generation.upstream in settings.UPSTREAMS else get_upstream()
    # Checked again, because the site's limits and models can have changed.
    body = check_request({key: value for key, value in generation.request.items() if key != "stream_options"}, upstream)
    return await _start(request, principal, body, upstream.name, sent={"regenerate": id})


async def _start(
    request: HttpRequest, principal: Principal, body: Mapping[str, Any], upstream: str, *, sent: object
) -> HttpResponseBase:
    _check_storable(body)
    await close_request_connections()
    create = partial(store.create, principal, body, upstream, request.headers.get("Idempotency-Key") or None, sent=sent)
    generation, is_new = await executor.run(create, pool=executor.WAITING)
    if is_new:
        background.call()
    else:
        generation = await executor.run(chunks.read, generation.pk)
    token = tokens.make(generation)
    return json_response({**_state(request, generation, token), "token": token}, 201 if is_new else 200)


def _check_storable(value: Any) -> None:
    """Raise HTTPError (400) if a text has characters that PostgreSQL's JSON type cannot store."""
    if isinstance(value, str) and value != storable(value):
        message = "Texts cannot contain NUL (U+0000) or lone surrogates (halves of characters)."
        raise HTTPError(400, "invalid-text", message)
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for each in value:
            _check_storable(each)


@api_view("GET", "HEAD")
async def look(request: HttpRequest, id: str) -> HttpResponseBase:
    """Return an answer's state and its text so far."""
    generation, _, token = await find(request, id)
    try:
        generation = await executor.run(chunks.read, id)
    except Generation.DoesNotExist:  # it was deleted in between
        raise not_found() from None
    background.call_for(generation)
    return json_response(_state(request, generation, token or tokens.make(generation)))


@api_view("POST")
async def cancel(request: HttpRequest, id: str) -> HttpResponseBase:
    """Stop an answer. An answer that has ended does not change."""
    found, _, token = await find(request, id)
    await close_request_connections()
    try:
        generation = await executor.run(store.cancel, id, pool=executor.WAITING)
    except Generation.DoesNotExist:
        raise not_found() from None
    background.forget(id)
    return json_response(_state(request, generation, token or tokens.make(found)))


def _state(request: HttpRequest, generation: Generation, token: str) -> dict[str, Any]:
    near = namespace_of(request)

    def url(name: str) -> str:
        return f"{reverse_mounted('streams_relay', name, [generation.pk], near=near)}?token={token}"

    return {
        "id": generation.pk,
        "channel": generation.channel,
        "model": generation.model,
        "text": generation.text,
        "chunks": generation.chunks,
        **end_data(generation),
        "created_at": generation.created_at,
        "ended_at": generation.ended_at,
        "url": url("generation"),
        "events_url": url("generation-events"),
        "cancel_url": url("generation-cancel"),
        "regenerate_url": url("generation-regenerate"),
    }
