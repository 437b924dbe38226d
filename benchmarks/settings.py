"""The demo site's settings, for a server that is measured: quiet, and without the demo's own limits."""

import os

os.environ.setdefault("SECRET_KEY", "for-benchmarks-only")
os.environ.setdefault("LOG_LEVEL", "WARNING")

from project.settings import *  # noqa: F403
from project.settings import STREAMS

ROOT_URLCONF = "benchmarks.site"
STREAMS = {**STREAMS, "PUBLIC_CHANNELS": ["news"], "PRUNE_SECONDS": None, "RELAY_MAX_STREAMS_PER_USER": 1000}
