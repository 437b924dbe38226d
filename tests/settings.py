"""Settings of the tests and of the servers that they start: the demo site's settings with changes for tests."""

import json
import os

os.environ.setdefault("SECRET_KEY", "for-tests-only")
os.environ.setdefault("HTTPS", "false")  # the tests' servers use plain HTTP, except in tests of TLS
os.environ.setdefault("ENV_FILE", os.devnull)  # the tests must not depend on a developer's .env file

from project.settings import *  # noqa: F403
from project.settings import INSTALLED_APPS, MIDDLEWARE, STREAMS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.support"]
ROOT_URLCONF = "tests.support.urls"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
WHITENOISE_AUTOREFRESH = True  # the tests do not run collectstatic, so there is no manifest

# A test that starts a server changes its settings with these variables: TEST_SECRET_KEY_FALLBACKS and TEST_MIDDLEWARE
# are JSON lists, and TEST_STREAMS is a JSON object.
SECRET_KEY_FALLBACKS = json.loads(os.environ.get("TEST_SECRET_KEY_FALLBACKS", "[]"))
MIDDLEWARE = [*json.loads(os.environ.get("TEST_MIDDLEWARE", "[]")), *MIDDLEWARE]
STREAMS = {**STREAMS, "PUBLIC_CHANNELS": ["news", "public.*"]}
STREAMS.pop("NOTIFIER", None)  # tests use the default notifier on every database, unless they set another
STREAMS |= json.loads(os.environ.get("TEST_STREAMS", "{}"))

if TEST_CACHE := os.environ.get("TEST_CACHE"):
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": TEST_CACHE}}
