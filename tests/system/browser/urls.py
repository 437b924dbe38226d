"""The URLs of the pages that report to the test, and of the view that receives the reports."""

from django.urls import path

from tests.system.browser import views

urlpatterns = [
    path("", views.file, {"name": "probe.html"}),
    path("watch/", views.file, {"name": "watch.html"}),
    path("guide/<int:number>/", views.guide),
    path("report.js", views.file, {"name": "report.js"}),
    path("watch/report.js", views.file, {"name": "report.js"}),
    path("report/", views.report),
    path("stream/<str:channel>/", views.NotedStream.as_view()),
    path("snapshot/<str:channel>/", views.SnapshotStream.as_view()),
]
