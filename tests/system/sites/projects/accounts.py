"""A site whose users log in with django-allauth, and whose database has psycopg's pool."""

from tests.system.sites.projects.base import *  # noqa: F403
from tests.system.sites.projects.base import DATABASES, INSTALLED_APPS, MIDDLEWARE, STREAMS

INSTALLED_APPS = [*INSTALLED_APPS, "allauth", "allauth.account"]
MIDDLEWARE = [*MIDDLEWARE, "allauth.account.middleware.AccountMiddleware"]
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
ACCOUNT_EMAIL_VERIFICATION = "none"
ROOT_URLCONF = "tests.system.sites.urls_accounts"

# As many connections as the log's two threads of each kind and a request use. See streams.W004.
STREAMS = {**STREAMS, "DATABASE_THREADS": 2}
DATABASES["default"]["OPTIONS"] = {"pool": {"min_size": 0, "max_size": 8, "max_idle": 1}}
