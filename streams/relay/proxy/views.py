"""OpenAI's chat completions over HTTP: a client's request in, an upstream's answer out, streamed or whole."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseBase

from streams.exceptions import HTTPError
from streams.http.json_responses import json_response
from streams.http.response import EventStreamResponse
from streams.relay.access import Principal, admit
from streams.relay.conf import settings
from streams.relay.endpoints import api_view, error_response, read_payload
from streams.relay.limits import count_question
from streams.relay.proxy.exchange import Exchange
from streams.relay.proxy.headers import passed_headers
from streams.relay.proxy.requests import check_request, wants_usage
from streams.relay.upstreams import get_upstream, upstream_for
from streams.runtime.request_resources import close_request_connections, release_request

# How long a request keeps its thread while it waits for a stream. Sync middleware needs a thread for the response, and
# starting a new one takes longer than anything else that the relay does for an answer.
KEEP_THREAD_SECONDS = 0.5


@api_view("POST")
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    """Return an answer, in the format of OpenAI's `POST /chat/completions`."""
    principal = await admit(request)
    return await relay(request, principal, read_payload(request))


async def relay(request: HttpRequest, principal: Principal, payload: object) -> HttpResponseBase:
    """Return the upstream's answer to `payload` as a response, for a principal that was admitted.

    A site can call this in its own views.

    Raises HTTPError if the request is invalid or exceeds a limit.
    """
    count_question(principal.key)
    upstream = upstream_for(payload.get("model") if isinstance(payload, dict) else None)
    body = check_request(payload, upstream)
    assert isinstance(payload, dict)
    exchange = Exchange(principal, upstream, body, shows_usage=wants_usage(payload))
    try:
        exchange.start()
        # The upstream can take a minute, which needs none of the request's connections. Close them while it works.
        await close_request_connections()
        return await (_stream if body.get("stream") else _whole)(request, exchange)
    except BaseException:  # including the cancellation after a disconnect
        await exchange.aclose()
        raise


async def _stream(request: HttpRequest, exchange: Exchange) -> HttpResponseBase:
    delay = settings.RELAY_HEADER_DELAY_SECONDS
    answer = await exchange.wait_for_answer(min(KEEP_THREAD_SECONDS, delay))
    if answer is None:
        await release_request()
        answer = await exchange.wait_for_answer(max(0.0, delay - KEEP_THREAD_SECONDS))
    if answer is not None and not (answer.is_stream and answer.status < 400):
        return await _passed(exchange)
    response = EventStreamResponse(exchange, status=200 if answer is None else answer.status)
    for name, value in () if answer is None else passed_headers(answer.headers):
        response.headers[name] = value
    response.serve_to(getattr(request, "scope", {}))
    return response


async def _whole(request: HttpRequest, exchange: Exchange) -> HttpResponseBase:
    await release_request()
    await exchange.wait_for_answer(None)
    return await _passed(exchange)


async def _passed(exchange: Exchange) -> HttpResponse:
    """Return the response for an answer that is not a stream, with its status and its JSON."""
    answer = exchange.answer
    assert answer is not None
    await release_request()  # the rest of the body can take as long as an answer
    headers = passed_headers(answer.headers)
    try:
        found = await exchange.read_json()
    except HTTPError as error:
        response = error_response(error)
        for name, value in headers:
            response.headers.setdefault(name, value)
    else:
        response = json_response(found, answer.status, headers)
    await exchange.aclose()
    return response


@api_view("GET")
async def models(request: HttpRequest) -> HttpResponseBase:
    """Return the available models, in the format of OpenAI's `GET /models`."""
    await admit(request)
    listed = [
        {"id": model, "object": "model", "created": 0, "owned_by": name}
        for name in settings.UPSTREAMS
        for model in get_upstream(name).models
    ]
    return json_response({"object": "list", "data": listed})
