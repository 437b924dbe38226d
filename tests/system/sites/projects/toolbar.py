"""A site in development, with django-debug-toolbar for every address."""

from tests.system.sites.projects.base import *  # noqa: F403
from tests.system.sites.projects.base import INSTALLED_APPS, MIDDLEWARE

DEBUG = True
INSTALLED_APPS = [*INSTALLED_APPS, "debug_toolbar"]
MIDDLEWARE = ["debug_toolbar.middleware.DebugToolbarMiddleware", *MIDDLEWARE]
INTERNAL_IPS = ["127.0.0.1"]
ROOT_URLCONF = "tests.system.sites.urls_toolbar"
SILENCED_SYSTEM_CHECKS = ["streams.W008"]  # DEBUG is on, and the tests serve with uvicorn
