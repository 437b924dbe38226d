"""The stream, and nothing else."""

from django.urls import include, path

urlpatterns = [path("events/", include("streams.urls"))]
