"""What the relay's views share: their methods, their errors as JSON, and how a request's body is read."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import RequestDataTooBig
from django.db import Error
from django.http import HttpRequest, HttpResponseBase, JsonResponse, UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from streams import outages
from streams.databases import non_atomic_requests
from streams.exceptions import NotMigrated
from streams.relay.errors import RelayError
from streams.relay.requests import parse_payload

logger = logging.getLogger("streams.relay")

AsyncView = Callable[..., Coroutine[Any, Any, HttpResponseBase]]

RETRY_AFTER_SECONDS = 5


def api_view(*methods: str) -> Callable[[AsyncView], AsyncView]:
    """A view of this API: its methods, its errors as JSON, and access.py in place of the CSRF and login middleware."""

    def decorator(view: AsyncView) -> AsyncView:
        # Django refuses ATOMIC_REQUESTS for async views, and no transaction is to be as long as an answer.
        @csrf_exempt
        @login_not_required
        @non_atomic_requests
        @functools.wraps(view)
        async def wrapped(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
            if request.method not in methods:
                words = f"This is asked with {' or '.join(methods)}; got {request.method}."
                return error_response(RelayError(405, "method-not-allowed", words), [("Allow", ", ".join(methods))])
            try:
                return await view(request, **kwargs)
            except RelayError as error:
                return error_response(error)
            except (Error, NotMigrated) as error:
                if not outages.is_unavailable(error):
                    raise
                logger.exception("A request could not be answered. %s", outages.explain(error))
                return error_response(unavailable(error))

        return wrapped

    return decorator


def unavailable(error: Exception) -> RelayError:
    """Return the answer to an error of the database."""
    return RelayError(
        503,
        "unavailable",
        outages.explain(error),
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def error_response(error: RelayError, headers: Iterable[tuple[str, str]] = ()) -> JsonResponse:
    """An error as OpenAI's API has it."""
    response = json_response(error.as_json(), error.status, headers)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if error.status == 401 and "WWW-Authenticate" not in response.headers:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def json_response(data: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> JsonResponse:
    """JSON that nobody keeps."""
    response = JsonResponse(data, safe=False, status=status)
    response.headers["Cache-Control"] = "no-store"
    for name, value in headers:
        response.headers[name] = value
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
