"""Content negotiation: the API answers in JSON, whatever the request accepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request


class AlwaysJSON(BaseContentNegotiation):
    """Select the view's only renderer.

    DRF's class would answer an EventSource's `Accept: text/event-stream` with 406 and hide the actual error.
    """

    def select_parser(self, request: Request, parsers: Sequence[Any]) -> Any:
        return parsers[0]  # bodies.py refuses other media types

    def select_renderer(self, request: Request, renderers: Sequence[Any], format_suffix: Any = None) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type


class PlainJSON(JSONRenderer):
    """JSON as RFC 8259 defines it, whatever the site's settings for its own views are."""

    strict = True
    ensure_ascii = False
    compact = True
