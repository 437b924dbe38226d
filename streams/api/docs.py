"""The API's description over HTTP: its schema, and a page made of it."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response

from streams.api import descriptions
from streams.api.base import StreamsAPIView
from streams.api.schema import described, document


class Schema(StreamsAPIView):
    """The OpenAPI document."""

    @described(**descriptions.SCHEMA)
    def get(self, request: Request) -> Response:
        return Response(document(request.path.removesuffix("schema/")))
