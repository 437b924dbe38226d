"""The URLs of the streams, and of what needs no other app."""

from django.urls import include, path

urlpatterns = [path("events/", include("streams.urls")), path("health/", include("streams.health"))]
