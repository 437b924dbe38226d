"""A site with a strict Content-Security-Policy, by django-csp, and with WhiteNoise's static files."""

import os

from csp.constants import NONE, SELF

from tests.system.sites.projects.base import *  # noqa: F403
from tests.system.sites.projects.base import INSTALLED_APPS, MIDDLEWARE

POLICY = {
    "default-src": [NONE],
    "script-src": [SELF],
    "style-src": [SELF],
    "img-src": [SELF, "data:"],
    "connect-src": [SELF],
    "form-action": [SELF],
    "frame-ancestors": [NONE],
    "base-uri": [NONE],
}

INSTALLED_APPS = [*INSTALLED_APPS, "csp"]
MIDDLEWARE = [
    MIDDLEWARE[0],
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    *MIDDLEWARE[1:],
]
CONTENT_SECURITY_POLICY = {"DIRECTIVES": POLICY}

STATIC_ROOT = os.environ["TEST_STATIC_ROOT"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
ROOT_URLCONF = "tests.system.sites.urls_policy"
