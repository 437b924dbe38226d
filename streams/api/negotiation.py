"""What is answered in: JSON, whatever is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.http import HttpResponse
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request


class AlwaysJSON(BaseContentNegotiation):
    """Takes the view's one renderer.

    DRF's would answer an EventSource's `Accept: text/event-stream` with 406 before the view has said what is wrong.
    """

    def select_parser(self, request: Request, parsers: Sequence[Any]) -> Any:
        return parsers[0]  # it is bodies.py that refuses what is no JSON

    def select_renderer(self, request: Request, renderers: Sequence[Any], format_suffix: Any = None) -> tuple[Any, str]:
        return renderers[0], renderers[0].media_type


class PlainJSON(JSONRenderer):
    """JSON as the standard has it, whatever the site's other views do."""

    strict = True
    ensure_ascii = False
    compact = True


def json_response(told: Any, status: int, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """The same, for views that are not DRF's."""
    return HttpResponse(PlainJSON().render(told), status=status, headers=headers, content_type=PlainJSON.media_type)
