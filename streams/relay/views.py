"""OpenAI's chat completions over HTTP: a client's request in, an upstream's answer out, streamed or whole."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from streams.relay.access import Caller, admit
from streams.relay.conf import settings
from streams.relay.errors import RelayError
from streams.relay.exchange import Exchange
from streams.relay.headers import passed_headers
from streams.relay.leaving import close_if_client_leaves
from streams.relay.requests import check_request, parse_payload, wants_usage
from streams.relay.upstreams import get_upstream, upstream_for
from streams.release import release_request
from streams.responses import EventStreamResponse

AsyncView = Callable[..., Coroutine[Any, Any, HttpResponseBase]]


def api_view(method: str) -> Callable[[AsyncView], AsyncView]:
    """A view of this API: for one method, with errors as JSON, and judged by access.py instead of CSRF's middleware."""

    def decorator(view: AsyncView) -> AsyncView:
        # Django refuses ATOMIC_REQUESTS for async views, and no transaction is to be as long as an answer.
        @csrf_exempt
        @transaction.non_atomic_requests
        @functools.wraps(view)
        async def wrapped(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
            if request.method != method:
                refusal = RelayError(405, "method-not-allowed", f"This is asked with {method}; got {request.method}.")
                return error_response(refusal, [("Allow", method)])
            try:
                return await view(request, **kwargs)
            except RelayError as error:
                return error_response(error)

        return wrapped

    return decorator


def error_response(error: RelayError, headers: Iterable[tuple[str, str]] = ()) -> JsonResponse:
    """An error as OpenAI's API has it."""
    response = _json(error.as_json(), error.status, headers)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if error.status == 401 and "WWW-Authenticate" not in response.headers:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def read_payload(request: HttpRequest) -> object:
    """The request's body as JSON. Raises RelayError: 413 or 400."""
    try:
        body = request.body
    except RequestDataTooBig:
        raise RelayError(413, "request-too-large", "The request is larger than this site takes.") from None
    except UnreadablePostError:
        raise RelayError(400, "invalid-json", "The request broke off.") from None
    return parse_payload(body)


@api_view("POST")
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    """An answer, as OpenAI's `POST /chat/completions` gives it."""
    caller = await admit(request)
    return await relay(request, caller, read_payload(request))


async def relay(request: HttpRequest, caller: Caller, payload: object) -> HttpResponseBase:
    """The upstream's answer to `payload`, for a caller who was admitted. For views of a site's own as well.

    Raises RelayError where the request is none, or the limits do not allow it.
    """
    upstream = upstream_for(payload.get("model") if isinstance(payload, dict) else None)
    body = check_request(payload, upstream)
    assert isinstance(payload, dict)
    # The upstream may take a minute, and needs neither the request's thread nor its connections.
    await release_request()
    exchange = Exchange(caller, upstream, body, shows_usage=wants_usage(payload))
    try:
        return await (_stream if body.get("stream") else _whole)(request, exchange)
    except BaseException:  # also where the client has left
        await exchange.aclose()
        raise


async def _stream(request: HttpRequest, exchange: Exchange) -> HttpResponseBase:
    answer = await exchange.open(settings.RELAY_HOLD_SECONDS)
    if answer is not None and not (answer.is_stream and answer.status < 400):
        return await _passed(exchange)
    response = EventStreamResponse(exchange, status=200 if answer is None else answer.status)
    for name, value in () if answer is None else passed_headers(answer.headers):
        response.headers[name] = value
    response.serve_to(getattr(request, "scope", {}))
    close_if_client_leaves(exchange, request)
    return response


async def _whole(request: HttpRequest, exchange: Exchange) -> HttpResponseBase:
    await exchange.open(None)
    return await _passed(exchange)


async def _passed(exchange: Exchange) -> HttpResponse:
    """An answer that is no stream, with its status and its JSON."""
    answer = exchange.answer
    assert answer is not None
    headers = passed_headers(answer.headers)
    try:
        found = await exchange.read_json()
    except RelayError as error:
        response = error_response(error, headers)
    else:
        response = _json(found, answer.status, headers)
    await exchange.aclose()
    return response


@api_view("GET")
async def models(request: HttpRequest) -> HttpResponseBase:
    """The models that may be asked for, as OpenAI's `GET /models` gives them."""
    await admit(request)
    listed = [
        {"id": model, "object": "model", "created": 0, "owned_by": name}
        for name in settings.UPSTREAMS
        for model in get_upstream(name).models
    ]
    return _json({"object": "list", "data": listed})


def _json(data: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> JsonResponse:
    response = JsonResponse(data, safe=False, status=status)
    response.headers["Cache-Control"] = "no-store"
    for name, value in headers:
        response.headers[name] = value
    return response
