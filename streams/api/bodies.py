"""How a request's body is read: JSON in UTF-8, within MAX_REQUEST_BYTES, and nothing that JSON does not have.

Not by DRF's parser: it reads whatever length there is, takes NaN, and passes over a body without a Content-Length.
"""

from __future__ import annotations

import json
import math
from typing import Any

from django.http import HttpRequest, UnreadablePostError

from streams.api.errors import ApiError
from streams.conf import settings
from streams.private.django import has_body, keep_body

MEDIA_TYPE = "application/json"


def read_json(request: HttpRequest) -> Any:
    """The request's body as JSON. Raises ApiError: 400, 413 or 415."""
    charset = (request.content_params or {}).get("charset", "utf-8")
    if request.content_type != MEDIA_TYPE or charset.lower() not in ("utf-8", "utf8"):
        given = request.headers.get("Content-Type", "")
        raise ApiError(
            415,
            "unsupported-media-type",
            f"A body is JSON in UTF-8: send `Content-Type: {MEDIA_TYPE}`; got {given[:100]!r}.",
        )
    return parse_json(_read(request))


def _read(request: HttpRequest) -> bytes:
    most = settings.MAX_REQUEST_BYTES
    told = request.headers.get("Content-Length", "")
    if told.isascii() and told.isdigit() and (len(told) > 18 or int(told) > most):
        raise _too_large(most)
    try:
        # Not `body` at once, which would hold to DATA_UPLOAD_MAX_MEMORY_SIZE, a limit for forms.
        body: bytes = request.body if has_body(request) else request.read(most + 1)
    except UnreadablePostError:
        raise ApiError(400, "invalid-json", "The request's body broke off. Send it again.") from None
    if len(body) > most:
        raise _too_large(most)
    keep_body(request, body)  # whoever looks at the request later may still ask for its body
    return body


def _too_large(most: int) -> ApiError:
    return ApiError(
        413,
        "request-too-large",
        f"A request has at most {most} bytes (STREAMS['MAX_REQUEST_BYTES']). Send less at once.",
    )


def parse_json(body: bytes) -> Any:
    """A body as JSON (RFC 8259). Raises ApiError: 400."""
    try:
        # Decoded here, and strictly: json.loads would take UTF-16 as well, and let lone surrogates through.
        return json.loads(
            body.decode(), parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_refuse_repeats
        )
    except UnicodeDecodeError as error:
        problem = f"it is not UTF-8, at byte {error.start}"
    except RecursionError:
        problem = "it is nested too deeply; nest it less"
    except json.JSONDecodeError as error:
        problem = f"{error.msg}, in line {error.lineno}, column {error.colno}"
    except ValueError as error:
        problem = str(error)
    raise ApiError(400, "invalid-json", f"The request's body is not JSON: {problem}.")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is none of its values")


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError(f"{digits[:40]} is larger than any number here")
    return number


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"an object names {twice[:100]!r} twice, and readers differ in which of them they take")
    return found
