"""The URLs of a site, its metrics, and the reports that it has made."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import include, path

from streams.views import EventStreamView
from tests.system.sites import observers
from tests.system.sites.urls import urlpatterns as of_the_site


class Failing(EventStreamView):
    """A stream whose snapshot raises."""

    async def get_snapshot(self, request: HttpRequest, channels: Any) -> object:
        raise LookupError("no snapshot")


def broken(request: HttpRequest) -> JsonResponse:
    """Raise before Streams has seen the token in the URL."""
    raise LookupError("broken")


def reports(request: HttpRequest) -> JsonResponse:
    return JsonResponse(observers.reports())


urlpatterns = [
    path("", include("django_prometheus.urls")),
    path("quiet/<str:channel>/", EventStreamView.as_view()),
    path("failing/<str:channel>/", Failing.as_view()),
    path("broken/", broken),
    path("test/reports/", reports),
    *of_the_site,
]
