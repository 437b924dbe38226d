"""Errors of the API, from DRF's views and from async ones, in one shape: {"error": {"code", "message", "fields"}}."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import PermissionDenied, SuspiciousOperation, TooManyFieldsSent
from django.http import Http404, HttpResponse
from rest_framework import exceptions
from rest_framework.response import Response

from streams import outages
from streams.api.negotiation import json_response
from streams.exceptions import too_many_parameters

logger = logging.getLogger("streams.api")

RETRY_AFTER_SECONDS = 5

# Of a thousand messages that are wrong alike, these say it.
MAX_FIELDS = 20


class ApiError(exceptions.APIException):
    """A request that is refused. `code` is for programs, the text for people."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        fields: Mapping[str, str] | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message, code)
        self.status_code = status
        self.fields = fields
        self.wait = retry_after_seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """An error as it is sent."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def answer_to(error: Exception) -> Answer | None:
    """The answer to an exception; None where it is a fault of ours, and the server's business.

    Call it where the exception is being handled: a database that does not answer is logged.
    """
    if outages.is_unavailable(error):
        outages.report(logger, "A request to the API could not be answered, because of the database.")
        error = ApiError(
            503,
            "unavailable",
            outages.explain(error),
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
    elif isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, TooManyFieldsSent):
        refusal = too_many_parameters()
        error = ApiError(refusal.status, refusal.code, str(refusal))
    elif isinstance(error, SuspiciousOperation):
        error = ApiError(400, "invalid-request", "The request's address or its parameters cannot be read.")
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if isinstance(error, exceptions.ValidationError):
        error = _invalid(error)
    if not isinstance(error, exceptions.APIException):
        return None
    told: dict[str, Any] = {"code": _code(error), "message": _message(error)}
    if fields := getattr(error, "fields", None):
        told["fields"] = dict(fields)
    headers = {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if (wait := getattr(error, "wait", None)) is not None:
        headers["Retry-After"] = str(math.ceil(wait))
    return Answer(error.status_code, {"error": told}, headers)


def handle(error: Exception, context: Mapping[str, Any]) -> Response | None:
    """DRF's exception handler, for our views alone."""
    answer = answer_to(error)
    return answer and Response(answer.body, answer.status, headers=answer.headers)


def as_response(answer: Answer) -> HttpResponse:
    """See handle(), for views that are not DRF's."""
    return json_response(answer.body, answer.status, answer.headers)


def _code(error: exceptions.APIException) -> str:
    codes = error.get_codes()
    return codes.replace("_", "-") if isinstance(codes, str) else "error"


def _message(error: exceptions.APIException) -> str:
    return error.detail if isinstance(error.detail, str) else "; ".join(text for _, text in _flat(error.detail))


def _invalid(error: exceptions.ValidationError) -> ApiError:
    found = list(_flat(error.detail))
    fields: dict[str, str] = {}
    for path, text in found[:MAX_FIELDS]:
        if path:
            fields[path] = f"{fields[path]} {text}" if path in fields else text
    first, text = found[0]
    more = f" That is one of {len(found)} problems: see `fields`." if len(found) > 1 else ""
    return ApiError(400, "invalid-request", f"{f'{first}: ' if first else ''}{text}{more}", fields=fields)


def _flat(detail: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """DRF's nested errors, each with its place: `messages[3].channel`."""
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
