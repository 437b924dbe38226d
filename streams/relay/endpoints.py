"""Code that the relay's views share: methods, errors as JSON, and reading a request's body."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import RequestDataTooBig
from django.db import Error
from django.http import HttpRequest, HttpResponse, HttpResponseBase, UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from streams.exceptions import HTTPError, NotMigrated
from streams.http import json_responses
from streams.relay.errors import openai_error
from streams.relay.proxy.requests import parse_payload
from streams.runtime import failures
from streams.runtime.database import non_atomic_requests

logger = logging.getLogger("streams.relay")

AsyncView = Callable[..., Coroutine[Any, Any, HttpResponseBase]]

RETRY_AFTER_SECONDS = 5


def api_view(*methods: str) -> Callable[[AsyncView], AsyncView]:
    """Return a decorator for the relay's views. It checks the method and answers errors in OpenAI's JSON.

    The views are exempt from the CSRF and login middleware: relay/access.py checks both.
    """

    def decorator(view: AsyncView) -> AsyncView:
        # Django refuses async views under ATOMIC_REQUESTS, and a transaction must not last as long as an answer.
        @csrf_exempt
        @login_not_required
        @non_atomic_requests
        @functools.wraps(view)
        async def wrapped(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
            if request.method not in methods:
                message = f"This is asked with {' or '.join(methods)}; got {request.method}."
                allow = {"Allow": ", ".join(methods)}
                return error_response(HTTPError(405, "method-not-allowed", message, headers=allow))
            try:
                return await view(request, **kwargs)
            except HTTPError as error:
                return error_response(error)
            except (Error, NotMigrated) as error:
                if not failures.is_unavailable(error):
                    raise
                logger.exception("A request could not be answered. %s", failures.explain(error))
                return error_response(unavailable(error))

        return wrapped

    return decorator


def unavailable(error: Exception) -> HTTPError:
    """Return the 503 for an error of the database."""
    return HTTPError(503, "unavailable", failures.explain(error), retry_after_seconds=RETRY_AFTER_SECONDS)


def error_response(error: HTTPError) -> HttpResponse:
    """Return the response to a request that failed with `error`, in the JSON of OpenAI's API."""
    response = json_responses.error_response(error, openai_error(error))
    if error.status == 401:
        response.headers.setdefault("WWW-Authenticate", "Bearer")
    return response


def read_payload(request: HttpRequest) -> object:
    """Return the request's body as JSON. Raises HTTPError: 413 or 400."""
    try:
        body = request.body
    except RequestDataTooBig:
        raise HTTPError(413, "request-too-large", "The request is larger than this site takes.") from None
    except UnreadablePostError:
        raise HTTPError(400, "invalid-json", "The request broke off.") from None
    return parse_payload(body)
