"""JSON responses of the streams, the HTTP API and the relay. All errors are rendered here."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from django.http import HttpResponse, JsonResponse

from streams.exceptions import HTTPError
from streams.telemetry import recorder
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams")


def json_response(data: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> HttpResponse:
    """Return `data`, encoded by DjangoJSONEncoder, as a JSON response that no cache stores."""
    response = JsonResponse(data, safe=False, status=status)
    response.headers["Cache-Control"] = "no-store"
    for name, value in headers:
        response.headers[name] = value
    return response


def record_refusal(error: HTTPError) -> None:
    """Count a refused request, and log it without the message, which can quote the request."""
    recorder.current.refused(error.code)
    extra = fields(event="refused", code=error.code, status=error.status)
    logger.info("Refused a request: %s.", error.code, extra=extra)


def error_response(error: HTTPError, body: Mapping[str, Any] | None = None) -> HttpResponse:
    """Return the response to a request that failed with `error`.

    Args:
        error: its status and headers are used, and its code, message and fields by default.
        body: the JSON to send instead of `{"error": {"code", "message", "fields"}}`, for clients of another API.
    """
    record_refusal(error)
    if body is None:
        invalid = {"fields": error.fields} if error.fields else {}
        body = {"error": {"code": error.code, "message": str(error), **invalid}}
    return json_response(body, error.status, error.headers.items())
