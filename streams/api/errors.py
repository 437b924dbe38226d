"""Answers to exceptions, from DRF's views and from async ones: {"error": {"code", "message", "fields"}}."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from django.core.exceptions import PermissionDenied, SuspiciousOperation, TooManyFieldsSent
from django.http import Http404, HttpResponse
from rest_framework import exceptions

from streams.exceptions import (
    HTTPError,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    InvalidChannel,
    InvalidMessage,
    too_many_parameters,
)
from streams.http.json_responses import error_response
from streams.runtime import failures

logger = logging.getLogger("streams.api")

RETRY_AFTER_SECONDS = 5

# The number of invalid fields that an error lists. A thousand messages can all have the same mistake.
MAX_FIELDS = 20


def handle(error: Exception, context: Mapping[str, Any] | None = None) -> HttpResponse | None:
    """Return the response to an exception, or None for a bug, which the server has to report.

    Call it while the exception is being handled, because it logs a failure of the database. It has the signature of
    DRF's EXCEPTION_HANDLER. Our views use it instead of the site's.
    """
    found = as_http_error(error)
    return None if found is None else error_response(found)


def as_http_error(error: Exception) -> HTTPError | None:
    """Return the HTTPError for an exception of ours, of DRF's or of Django's, or None for any other. See handle()."""
    if isinstance(error, HTTPError):
        return error
    if isinstance(error, IdempotencyKeyInUse):
        return HTTPError(409, "idempotency-key-in-use", str(error), retry_after_seconds=1)
    if isinstance(error, IdempotencyKeyReused):
        return HTTPError(422, "idempotency-key-reused", str(error))
    if isinstance(error, InvalidChannel):
        return HTTPError(400, "invalid-channel", str(error))
    if isinstance(error, InvalidMessage):
        return HTTPError(400, "invalid-request", str(error))
    if failures.is_unavailable(error):
        failures.report(logger, "A request to the API could not be answered, because of the database.")
        return HTTPError(503, "unavailable", failures.explain(error), retry_after_seconds=RETRY_AFTER_SECONDS)
    if isinstance(error, TooManyFieldsSent):
        return too_many_parameters()
    if isinstance(error, SuspiciousOperation):
        return HTTPError(400, "invalid-request", "The request's address or its parameters cannot be read.")
    if isinstance(error, exceptions.ValidationError):
        return _invalid(error)
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    return _from_drf(error) if isinstance(error, exceptions.APIException) else None


def _from_drf(error: exceptions.APIException) -> HTTPError:
    codes = error.get_codes()
    code = codes.replace("_", "-") if isinstance(codes, str) else "error"
    message = "; ".join(text for _, text in _flat(error.detail))
    challenge, wait = getattr(error, "auth_header", None), getattr(error, "wait", None)
    headers = {"WWW-Authenticate": challenge} if challenge else None
    seconds = None if wait is None else math.ceil(wait)
    return HTTPError(error.status_code, code, message, headers=headers, retry_after_seconds=seconds)


def _invalid(error: exceptions.ValidationError) -> HTTPError:
    found = list(_flat(error.detail))
    fields: dict[str, str] = {}
    for path, text in found[:MAX_FIELDS]:
        if path:
            fields[path] = f"{fields[path]} {text}" if path in fields else text
    first, text = found[0]
    more = f" That is one of {len(found)} problems: see `fields`." if len(found) > 1 else ""
    return HTTPError(400, "invalid-request", f"{f'{first}: ' if first else ''}{text}{more}", fields=fields)


def _flat(detail: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each of DRF's nested errors as (path, text), with paths such as `messages[3].channel`."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            if name == "non_field_errors":
                yield from _flat(inner, path)
            elif isinstance(name, int):
                yield from _flat(inner, f"{path}[{name}]")
            else:
                yield from _flat(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(detail, list):
        for index, inner in enumerate(detail):
            yield from _flat(inner, path if isinstance(inner, str) else f"{path}[{index}]")
    else:
        yield path, str(detail)
