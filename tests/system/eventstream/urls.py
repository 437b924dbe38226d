"""The routes of django-eventstream's README, and views that send, with their imports swapped."""

# mypy: ignore-errors
import json

from django.http import HttpResponse
from django.urls import include, path

import streams.eventstream as django_eventstream  # was: import django_eventstream
from streams.eventstream import send_event  # was: from django_eventstream import send_event
from tests.support import views


def say(request, channel):
    send_event(channel, "message", {"text": request.GET["text"]})
    return HttpResponse()


def page(request):
    last_id = django_eventstream.get_current_event_id(["test"])
    return HttpResponse(json.dumps({"last_id": last_id}))


urlpatterns = [
    path("events/", include(django_eventstream.urls), {"channels": ["test"]}),
    path("objects/<obj_id>/events/", include(django_eventstream.urls), {"format-channels": ["object-{obj_id}"]}),
    path("channels/<channel>/", include(django_eventstream.urls)),
    path("any/", include("streams.eventstream")),
    path("say/<channel>/", say),
    path("page/", page),
    path("test/login/", views.log_in),
]
