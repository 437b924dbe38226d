"""The API's OpenAPI document, and a page on which Swagger UI shows it."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.apps import apps
from django.conf import settings
from django.http import HttpResponse
from django.http.request import HttpHeaders
from django.shortcuts import render
from django.templatetags.static import static
from rest_framework.request import Request
from rest_framework.response import Response

from streams.api.openapi import descriptions
from streams.api.openapi.schema import described, document
from streams.api.views.base import StreamsAPIView
from streams.exceptions import HTTPError
from streams.http.mounts import path_of

# The app whose static files are Swagger UI. Its Python code is not used, and neither are drf-spectacular's views:
# these depend on the site's SPECTACULAR_SETTINGS and have an inline style.
SWAGGER_UI = "drf_spectacular_sidecar"


class Schema(StreamsAPIView):
    """The OpenAPI document."""

    uses_database = False

    @described(**descriptions.SCHEMA)
    def get(self, request: Request) -> Response:
        return Response(document(path_of(request).removesuffix("schema/")))


class Docs(StreamsAPIView):
    """The page. The site's permission classes decide who can see it."""

    schema = None
    uses_database = False

    def get(self, request: Request) -> HttpResponse:
        if not apps.is_installed(SWAGGER_UI):
            raise HTTPError(
                501,
                "not-installed",
                f"This page needs {SWAGGER_UI!r} in INSTALLED_APPS (pip install drf-spectacular-sidecar), and "
                "`collectstatic` in production. The OpenAPI document at ../schema/ does not need it.",
            )
        header = HttpHeaders.parse_header_name(settings.CSRF_HEADER_NAME)
        response = render(request._request, "streams/api/docs.html", {"csrf_header": header})
        response.headers["Content-Security-Policy"] = _policy(static(f"{SWAGGER_UI}/"))
        return response


def _policy(files: str) -> str:
    """Return a Content-Security-Policy that allows static files, from the URL `files`, and requests to this site."""
    parts = urlsplit(files)
    source = f"{parts.scheme or 'https'}://{parts.netloc}" if parts.netloc else "'self'"
    return (
        f"default-src 'none'; script-src {source}; style-src {source}; img-src {source} data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
