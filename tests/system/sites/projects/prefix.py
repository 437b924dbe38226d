"""A site below /app: its pages have their language in the URL, and the log's URLs are in a namespace of the site."""

from tests.system.sites.projects.base import *  # noqa: F403
from tests.system.sites.projects.base import MIDDLEWARE

FORCE_SCRIPT_NAME = "/app"
STATIC_URL = "static/"
LOGIN_URL = "admin:login"
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = "/app/"

MIDDLEWARE = [*MIDDLEWARE]
MIDDLEWARE.insert(2, "django.middleware.locale.LocaleMiddleware")
MIDDLEWARE.append("django.contrib.auth.middleware.LoginRequiredMiddleware")

ROOT_URLCONF = "tests.system.sites.urls_prefix"
