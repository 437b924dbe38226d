"""Use `path("ai/", include("streams.relay.urls"))`: stored answers at `ai/generations/`, OpenAI's API at `ai/v1`."""

from django.urls import path

from streams.relay.generations import views as generation_views
from streams.relay.generations.stream import GenerationEvents
from streams.relay.proxy import views

app_name = "streams_relay"

urlpatterns = [
    path("v1/chat/completions", views.chat_completions, name="chat-completions"),
    path("v1/models", views.models, name="models"),
    path("generations/", generation_views.ask, name="generations"),
    path("generations/<str:id>/", generation_views.look, name="generation"),
    path("generations/<str:id>/events/", GenerationEvents.as_view(), name="generation-events"),
    path("generations/<str:id>/cancel/", generation_views.cancel, name="generation-cancel"),
    path("generations/<str:id>/regenerate/", generation_views.regenerate, name="generation-regenerate"),
]
