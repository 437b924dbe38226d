"""The API's description over HTTP: its schema, and a page made of it."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.http import HttpResponse
from django.template.loader import render_to_string
from django.templatetags.static import static
from rest_framework.request import Request
from rest_framework.response import Response

from streams.api import descriptions, pages
from streams.api.base import StreamsAPIView
from streams.api.schema import described, document

STYLESHEET = "streams/api.css"


class Schema(StreamsAPIView):
    """The OpenAPI document."""

    asks_database = False

    @described(**descriptions.SCHEMA)
    def get(self, request: Request) -> Response:
        return Response(document(request.path.removesuffix("schema/")))


class Docs(StreamsAPIView):
    """The page."""

    schema = None
    asks_database = False

    def get(self, request: Request) -> HttpResponse:
        mount = request.path.removesuffix("docs/")
        base = request._request.build_absolute_uri(mount)
        stylesheet = static(STYLESHEET)
        context = {"stylesheet": stylesheet, "mount": mount, **pages.context(document(mount), base)}
        response = HttpResponse(render_to_string("streams/api/docs.html", context, request._request))
        response.headers["Content-Security-Policy"] = _policy(stylesheet)
        return response


def _policy(stylesheet: str) -> str:
    """It has a stylesheet, wherever the site serves such, and nothing else: no script, no picture, no form."""
    parts = urlsplit(stylesheet)
    source = f"{parts.scheme or 'https'}://{parts.netloc}" if parts.netloc else "'self'"
    return f"default-src 'none'; style-src {source}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
