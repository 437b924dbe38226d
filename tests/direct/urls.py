"""Views whose answers the tests compare: those of tests/views, and views that raise what Django answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import path

from streams.views import EventStreamView
from tests.views.urls import urlpatterns as views

ERRORS = {
    "404": Http404("no such match"),
    "403": PermissionDenied("a secret"),
    "400": SuspiciousOperation("a secret"),
    "500": ZeroDivisionError("a secret"),
}


class Raises(EventStreamView):
    def get_channels(self, request: HttpRequest, **kwargs: Any) -> Sequence[str]:
        raise ERRORS[kwargs["error"]]


class Final(EventStreamView):
    final_events = ("done",)


class SetsSession(EventStreamView):
    """A view that changes the session and sets a cookie."""

    async def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        await request.session.aset("seen", 1)
        response = await super().dispatch(request, *args, **kwargs)  # type: ignore[misc]
        response.set_cookie("taste", "plain")
        return response


class NotAStream(EventStreamView):
    async def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        return HttpResponse("text")


urlpatterns = [
    *views,
    path("raises/<str:error>/", Raises.as_view()),
    path("final/<str:channel>/", Final.as_view()),
    path("session/<str:channel>/", SetsSession.as_view()),
    path("members/<str:channel>/", login_required(EventStreamView.as_view())),
    path("text/<str:channel>/", NotAStream.as_view()),
]
