"""The URLs of the demo site."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView

from project import chat, pages

urlpatterns = [
    path("", pages.board, name="board"),
    path("publish/", pages.publish_news, name="publish-news"),
    path("listeners/", pages.listeners, name="listeners"),
    path("random", pages.random_numbers, name="random"),
    path("random/", pages.random_page, name="random-page"),
    path("chat/", chat.chat_page, name="chat"),
    path("chat/send", chat.send, name="chat-send"),
    path("events/", include("streams.urls")),
    path("ai/", include("streams.relay.urls")),
    path("api/", include("streams.api.urls")),
    path("health/", include("streams.health")),
    path("admin/", admin.site.urls),
    path(
        "favicon.ico", RedirectView.as_view(url=static("project/icon.svg"))
    ),  # the admin's pages have no icon of their own
]
