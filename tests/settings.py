"""Settings of the tests, in this process and in the servers that tests start: the demo site's, and a few more views."""

import json
import os

os.environ.setdefault("SECRET_KEY", "for-tests-only")

from project.settings import *  # noqa: F403
from project.settings import INSTALLED_APPS, STREAMS

INSTALLED_APPS = [*INSTALLED_APPS, "tests"]
ROOT_URLCONF = "tests.urls"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
WHITENOISE_AUTOREFRESH = True  # tests write no manifest

# A test that starts a server changes settings by this variable: a JSON object.
STREAMS = {**STREAMS, "PUBLIC_CHANNELS": ["news", "public.*"], **json.loads(os.environ.get("TEST_STREAMS", "{}"))}
