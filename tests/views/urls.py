"""Subclasses of EventStreamView such as a site can have, and their URLs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib.auth import get_user_model
from django.http import HttpRequest
from django.urls import include, path

from streams import apublish
from streams.policies import BasePolicy
from streams.views import EventStreamView


class Scores(EventStreamView):
    """A view that takes its channels from the URL and sends a snapshot first."""

    def get_channels(self, request: HttpRequest, **kwargs: Any) -> Sequence[str]:
        return [f"score.{kwargs['match']}", "score.all"]

    async def get_snapshot(self, request: HttpRequest, channels: Sequence[str]) -> object:
        users = await get_user_model().objects.acount()
        return {"match": self.kwargs["match"], "channels": channels, "users": users}


class PublishesDuringSnapshot(EventStreamView):
    async def get_snapshot(self, request: HttpRequest, channels: Sequence[str]) -> object:
        await apublish(channels[0], "while the snapshot was made")
        return "state\r\nof two lines"


class FailsInItsSnapshot(EventStreamView):
    async def get_snapshot(self, request: HttpRequest, channels: Sequence[str]) -> object:
        raise ZeroDivisionError("a secret of the site")


class FailsToEncodeItsSnapshot(EventStreamView):
    async def get_snapshot(self, request: HttpRequest, channels: Sequence[str]) -> object:
        return b"no JSON"


class Short(EventStreamView):
    timeout = 1.5


class Misconfigured(EventStreamView):
    timeout = 0


class OwnCursor(EventStreamView):
    def get_cursor(self, request: HttpRequest) -> str | None:
        return request.GET.get("since")


class OwnPolicy(EventStreamView):
    def get_policy(self) -> BasePolicy:
        return BasePolicy()


urlpatterns = [
    path("events/", include("streams.urls")),
    path("scores/<int:match>/", Scores.as_view()),
    path("meanwhile/<str:channel>/", PublishesDuringSnapshot.as_view()),
    path("fails/<str:channel>/", FailsInItsSnapshot.as_view()),
    path("unencodable/<str:channel>/", FailsToEncodeItsSnapshot.as_view()),
    path("short/<str:channel>/", Short.as_view()),
    path("misconfigured/<str:channel>/", Misconfigured.as_view()),
    path("own-cursor/<str:channel>/", OwnCursor.as_view()),
    path("own-policy/<str:channel>/", OwnPolicy.as_view()),
]
