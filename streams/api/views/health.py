"""The health checks of streams.health, as a part of the API: with their descriptions for its schema."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from rest_framework.permissions import AllowAny

from streams import health
from streams.api.openapi import descriptions
from streams.api.openapi.schema import described
from streams.api.views.base import StreamsAPIView, async_view


class _Description(StreamsAPIView):
    authentication_classes: list[Any] = []
    permission_classes = [AllowAny]


class LiveDescription(_Description):
    """Describes live() for the schema."""

    @described(**descriptions.LIVE)
    def get(self, request: Any) -> Any:
        raise NotImplementedError


class ReadyDescription(_Description):
    """Describes ready() for the schema."""

    @described(**descriptions.READY)
    def get(self, request: Any) -> Any:
        raise NotImplementedError


@async_view(LiveDescription, "GET", "HEAD")
async def live(request: HttpRequest) -> HttpResponse:
    """See streams.health.live()."""
    return await health.live(request)


@async_view(ReadyDescription, "GET", "HEAD")
async def ready(request: HttpRequest) -> HttpResponse:
    """See streams.health.ready()."""
    return await health.ready(request)
