"""The URLs of the streams only."""

from django.urls import include, path

urlpatterns = [path("events/", include("streams.urls"))]
