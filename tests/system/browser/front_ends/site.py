"""The URLs of the recipes' pages, and a policy whose database can be away."""

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

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        if (settings.PROJECT / "away").exists():
            raise OperationalError("The database is away.")
        return super().can_subscribe(request, channel)


urlpatterns = [
    path("events/", include("streams.urls")),
    path("<str:name>/", page),
]
