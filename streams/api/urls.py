"""URLs of the HTTP API: `path("api/", include("streams.api.urls"))`. The page `api/docs/` describes them."""

from django.urls import path

from streams.api.views import docs, fast, health
from streams.api.views.channels import Channels, OneChannel
from streams.api.views.disconnecting import Disconnect
from streams.api.views.messages import ChannelMessages, Messages
from streams.api.views.tokens import Tokens

app_name = "streams_api"

urlpatterns = [
    path("channels/<str:channel>/messages/", ChannelMessages.as_view(), name="channel-messages"),
    path("messages/", Messages.as_view(), name="messages"),
    path("fast/channels/<str:channel>/messages/", fast.fast_publish, name="fast-channel-messages"),
    path("channels/", Channels.as_view(), name="channels"),
    path("channels/<str:channel>/", OneChannel.as_view(), name="channel"),
    path("tokens/", Tokens.as_view(), name="tokens"),
    path("streams/disconnect/", Disconnect.as_view(), name="disconnect"),
    path("health/live", health.live, name="live"),
    path("health/ready", health.ready, name="ready"),
    path("schema/", docs.Schema.as_view(), name="schema"),
    path("docs/", docs.Docs.as_view(), name="docs"),
]
