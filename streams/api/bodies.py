"""Read a request's body: strict JSON in UTF-8, within limits that keep parsing cheap.

DRF's parser is not used: it reads a body of any length, accepts NaN, and ignores a body without a Content-Length.
"""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest, UnreadablePostError

from streams.conf import settings
from streams.exceptions import HTTPError
from streams.json_bodies import SMALL_BODY_BYTES, finite, refuse_constant, too_many_values
from streams.private.django import has_body, keep_body

MEDIA_TYPE = "application/json"

# The rules for bodies, as the error states them.
BY_SETTING = "A request has at most {most} bytes (STREAMS['MAX_REQUEST_BYTES']). Send less at once."
ANONYMOUS = "A request without credentials has at most {most} bytes. Send less at once, or authenticate."
SMALL = "A request to this URL has at most {most} bytes. Send less at once."


def read_json(request: HttpRequest, rule: str = BY_SETTING) -> Any:
    """Return the request's body as JSON. Raises HTTPError: 400, 413 or 415."""
    return parse_json(read_body(request, rule))


def read_body(request: HttpRequest, rule: str = BY_SETTING) -> bytes:
    """Return the request's body, which is to be JSON, unparsed. Raises HTTPError: 400, 413 or 415."""
    charset = (request.content_params or {}).get("charset", "utf-8")
    if request.content_type != MEDIA_TYPE or charset.lower() not in ("utf-8", "utf8"):
        given = request.headers.get("Content-Type", "")
        raise HTTPError(
            415,
            "unsupported-media-type",
            f"A body is JSON in UTF-8: send `Content-Type: {MEDIA_TYPE}`; got {given[:100]!r}.",
        )
    most = settings.MAX_REQUEST_BYTES
    if rule == BY_SETTING or most < SMALL_BODY_BYTES:
        rule = BY_SETTING
    else:
        most = SMALL_BODY_BYTES
    declared = request.headers.get("Content-Length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > most):
        raise _too_large(rule, most)
    try:
        # Not `body` at once, which would hold to DATA_UPLOAD_MAX_MEMORY_SIZE, a limit for forms.
        body: bytes = request.body if has_body(request) else request.read(most + 1)
    except UnreadablePostError:
        raise HTTPError(400, "invalid-json", "The request's body broke off. Send it again.") from None
    if len(body) > most:
        raise _too_large(rule, most)
    keep_body(request, body)  # whoever looks at the request later may still ask for its body
    return body


def _too_large(rule: str, most: int) -> HTTPError:
    return HTTPError(413, "request-too-large", rule.format(most=most))


def parse_json(body: bytes) -> Any:
    """Return a body as JSON (RFC 8259). Raises HTTPError: 400 or 413."""
    if (problem := too_many_values(body, settings.MAX_REQUEST_BYTES, "MAX_REQUEST_BYTES")) is not None:
        raise HTTPError(413, "too-many-values", problem)
    try:
        # Decoded here, and strictly: json.loads would take UTF-16 as well, and let lone surrogates through.
        return json.loads(
            body.decode(), parse_constant=refuse_constant, parse_float=finite, object_pairs_hook=_refuse_repeats
        )
    except UnicodeDecodeError as error:
        problem = f"it is not UTF-8, at byte {error.start}"
    except RecursionError:
        problem = "it is nested too deeply; nest it less"
    except json.JSONDecodeError as error:
        problem = f"{error.msg}, in line {error.lineno}, column {error.colno}"
    except ValueError as error:
        problem = str(error)
    raise HTTPError(400, "invalid-json", f"The request's body is not JSON: {problem}.")


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"an object names {twice[:100]!r} twice, and readers differ in which of them they take")
    return found
