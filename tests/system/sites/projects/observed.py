"""A site that reports to Sentry and OpenTelemetry, and has django-prometheus's metrics, also of its database."""

import sentry_sdk

from tests.system.sites import observers
from tests.system.sites.projects.base import *  # noqa: F403
from tests.system.sites.projects.base import DATABASES, INSTALLED_APPS, MIDDLEWARE

INSTALLED_APPS = ["django_prometheus", *INSTALLED_APPS]
MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    *MIDDLEWARE,
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]
DATABASES["default"]["ENGINE"] = DATABASES["default"]["ENGINE"].replace("django.db", "django_prometheus.db")
ROOT_URLCONF = "tests.system.sites.urls_observed"

sentry_sdk.init(
    dsn="http://key@127.0.0.1/1",
    transport=observers.Transport,
    traces_sampler=observers.sample,
    before_send=observers.hide_tokens_in_event,
    before_send_transaction=observers.hide_tokens_in_event,
    send_default_pii=True,
)
