"""Read a request's body: strict JSON in UTF-8, within limits that keep parsing cheap.

DRF's parser is not used: it reads a body of any length, accepts NaN, and ignores a body without a Content-Length.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, UnreadablePostError

from streams.conf import settings
from streams.exceptions import HTTPError
from streams.private.django import has_body, keep_body
from streams.protocol.json_bodies import SMALL_BODY_BYTES, parse_body

MEDIA_TYPE = "application/json"

# Which limit applies to a body: the texts of the error.
BY_SETTING = "A request has at most {limit} bytes (STREAMS['MAX_REQUEST_BYTES']). Send less at once."
ANONYMOUS = "A request without credentials has at most {limit} bytes. Send less at once, or authenticate."
SMALL = "A request to this URL has at most {limit} bytes. Send less at once."


def read_json(request: HttpRequest, rule: str = BY_SETTING) -> Any:
    """Return the request's body as JSON. Raises HTTPError: 400, 413 or 415."""
    return parse_json(read_body(request, rule))


def read_body(request: HttpRequest, rule: str = BY_SETTING) -> bytes:
    """Return the request's body without parsing it. Raises HTTPError: 400, 413 or 415."""
    charset = (request.content_params or {}).get("charset", "utf-8")
    if request.content_type != MEDIA_TYPE or charset.lower() not in ("utf-8", "utf8"):
        given = request.headers.get("Content-Type", "")
        raise HTTPError(
            415,
            "unsupported-media-type",
            f"The body must be JSON in UTF-8: send `Content-Type: {MEDIA_TYPE}`; got {given[:100]!r}.",
        )
    limit = settings.MAX_REQUEST_BYTES
    if rule == BY_SETTING or limit < SMALL_BODY_BYTES:
        rule = BY_SETTING
    else:
        limit = SMALL_BODY_BYTES
    declared = request.headers.get("Content-Length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(rule, limit)
    try:
        # request.body would apply DATA_UPLOAD_MAX_MEMORY_SIZE, which is a limit for forms.
        body: bytes = request.body if has_body(request) else request.read(limit + 1)
    except UnreadablePostError:
        raise HTTPError(400, "invalid-json", "The request's body broke off. Send it again.") from None
    if len(body) > limit:
        raise _too_large(rule, limit)
    keep_body(request, body)  # so that code that runs later can read request.body
    return body


def _too_large(rule: str, limit: int) -> HTTPError:
    return HTTPError(413, "request-too-large", rule.format(limit=limit))


def parse_json(body: bytes) -> Any:
    """Return a body as JSON. Raises HTTPError: 400 or 413."""
    return parse_body(body, settings.MAX_REQUEST_BYTES, "MAX_REQUEST_BYTES")
