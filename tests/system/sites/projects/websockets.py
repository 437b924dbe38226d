"""A site with WebSockets, by Channels."""

from tests.system.sites.projects.base import *  # noqa: F403
from tests.system.sites.projects.base import INSTALLED_APPS

INSTALLED_APPS = ["daphne", *INSTALLED_APPS, "channels"]
ASGI_APPLICATION = "tests.system.sites.asgi_websockets.application"
