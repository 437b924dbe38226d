"""The URLs of the recipes' pages, and a policy whose database can be away."""

from collections.abc import Sequence

from django.conf import settings
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import include, path

from streams.policies import DefaultPolicy


def page(request: HttpRequest, name: str) -> HttpResponse:
    return render(request, f"{name}.html")


class Policy(DefaultPolicy):
    """Cannot decide while the file `away` is in the project's folder."""

    async def adenied_channels(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        if (settings.PROJECT / "away").exists():
            raise OperationalError("The database is away.")
        return await super().adenied_channels(request, channels)

    def denied_channels(self, request: HttpRequest, channels: Sequence[str]) -> list[str]:
        return super().denied_channels(request, channels)


urlpatterns = [
    path("events/", include("streams.urls")),
    path("<str:name>/", page),
]
