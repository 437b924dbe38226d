"""The probe page and where it reports to."""

from django.urls import path

from tests.browser import views

urlpatterns = [
    path("", views.probe),
    path("report/", views.report),
    path("stream/<str:channel>/", views.NotedStream.as_view()),
]
