"""A router of Channels: HTTP with streams by Django, and a WebSocket whose consumers publish to the log and read it."""

# ruff: noqa: E402
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.system.sites.projects.websockets")

import django.core.asgi

django_app = django.core.asgi.get_asgi_application()  # before models are imported

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import path

from streams.asgi import get_asgi_application
from tests.system.sites import consumers

websocket = AllowedHostsOriginValidator(
    AuthMiddlewareStack(
        URLRouter(
            [
                path("ws/async/", consumers.AsyncPublisher.as_asgi()),
                path("ws/sync/", consumers.SyncPublisher.as_asgi()),
            ]
        )
    )
)

application = get_asgi_application(ProtocolTypeRouter({"http": django_app, "websocket": websocket}))

# The other order works as well, but it does not answer the lifespan protocol.
inside = ProtocolTypeRouter({"http": get_asgi_application(django_app), "websocket": websocket})
