"""A site with as little as Streams needs: no admin, no sessions, no messages, no middleware."""

from tests.settings import *  # noqa: F403

INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "streams"]
MIDDLEWARE = []
TEMPLATES = []
ROOT_URLCONF = "tests.urls_bare"
