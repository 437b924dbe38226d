"""A site with the per-site cache, compression, transactions, and connections that stay open."""

from tests.system.sites.projects.base import *  # noqa: F403
from tests.system.sites.projects.base import DATABASES, MIDDLEWARE

MIDDLEWARE = [
    "django.middleware.cache.UpdateCacheMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.middleware.http.ConditionalGetMiddleware",
    "django.middleware.common.BrokenLinkEmailsMiddleware",
    "tests.support.middleware.wrap_content",
    "tests.support.middleware.sync_only",
    *MIDDLEWARE,
    "django.middleware.cache.FetchFromCacheMiddleware",
]
CACHE_MIDDLEWARE_SECONDS = 600

DATABASES["default"] |= {"ATOMIC_REQUESTS": True, "CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True}
