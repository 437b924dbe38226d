"""`path("events/", include("streams.urls"))`: one channel at `events/news/`, several at `events/?channel=…`."""

from django.urls import path

from streams.views import EventStreamView

app_name = "streams"

urlpatterns = [
    path("", EventStreamView.as_view(), name="channels"),
    path("<str:channel>/", EventStreamView.as_view(), name="channel"),
]
