"""A site with only the apps that Streams needs: no admin, no sessions, no messages, no middleware."""

from tests.settings import *  # noqa: F403

INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "streams"]
MIDDLEWARE = []
TEMPLATES = []
ROOT_URLCONF = "tests.support.urls_bare"
# The relay is not installed, so that its keys would be unknown.
STREAMS = {key: value for key, value in STREAMS.items() if not key.startswith(("UPSTREAMS", "RELAY_", "GENERATION_"))}  # noqa: F405
