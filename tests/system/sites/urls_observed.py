"""The URLs of a site, its metrics, and the reports that it has sent."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import include, path

from streams.views import EventStreamView
from tests.system.sites.observers import sent
from tests.system.sites.urls import urlpatterns as of_the_site


class Failing(EventStreamView):
    """A stream whose snapshot raises."""

    async def get_snapshot(self, request: HttpRequest, channels: Any) -> object:
        raise LookupError("no snapshot")


def reports(request: HttpRequest) -> JsonResponse:
    """Return the reports since the last request."""
    found = sent.copy()
    sent.clear()
    return JsonResponse({"reports": found})


urlpatterns = [
    path("", include("django_prometheus.urls")),
    path("failing/<str:channel>/", Failing.as_view()),
    path("test/reports/", reports),
    *of_the_site,
]
