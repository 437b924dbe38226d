"""Settings of the tests, in this process and in the servers that tests start: the demo site's, and a few more views."""

import json
import os

os.environ.setdefault("SECRET_KEY", "for-tests-only")
os.environ.setdefault("HTTPS", "false")  # the servers of the tests speak plain HTTP, unless a test is about TLS
os.environ.setdefault("ENV_FILE", os.devnull)  # the tests are not to depend on what somebody has in .env

from project.settings import *  # noqa: F403
from project.settings import INSTALLED_APPS, MIDDLEWARE, STREAMS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.support"]
ROOT_URLCONF = "tests.support.urls"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
WHITENOISE_AUTOREFRESH = True  # tests write no manifest

# A test that starts a server changes settings by these variables: JSON lists of old keys and of outer middleware, and a
# JSON object.
SECRET_KEY_FALLBACKS = json.loads(os.environ.get("TEST_SECRET_KEY_FALLBACKS", "[]"))
MIDDLEWARE = [*json.loads(os.environ.get("TEST_MIDDLEWARE", "[]")), *MIDDLEWARE]
STREAMS = {**STREAMS, "PUBLIC_CHANNELS": ["news", "public.*"]}
STREAMS.pop("NOTIFIER", None)  # the default one, on every database; tests of others name them
STREAMS |= json.loads(os.environ.get("TEST_STREAMS", "{}"))

if TEST_CACHE := os.environ.get("TEST_CACHE"):
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": TEST_CACHE}}
