"""`path("ai/", include("streams.relay.urls"))`: then `…/ai/v1` is what OpenAI's clients take as their base_url."""

from django.urls import path

from streams.relay import views

app_name = "streams_relay"

urlpatterns = [
    path("v1/chat/completions", views.chat_completions, name="chat-completions"),
    path("v1/models", views.models, name="models"),
]
