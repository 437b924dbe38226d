"""The demo site's settings, for a server that is measured: quiet, and without the demo's own limits."""

import os

os.environ.setdefault("SECRET_KEY", "for-benchmarks-only")
os.environ.setdefault("LOG_LEVEL", "WARNING")
os.environ.setdefault("HTTPS", "false")  # the servers that are measured speak plain HTTP

from project.settings import *  # noqa: F403
from project.settings import CHANNEL_LAYERS, STREAMS

ROOT_URLCONF = "benchmarks.site"
STREAMS = {
    **STREAMS,
    "PUBLIC_CHANNELS": ["bench", "news", "quiet"],
    "PRUNE_SECONDS": None,
    "RELAY_MAX_STREAMS_PER_USER": 1000,
}
STREAMS["MAX_STREAMS_PER_USER"] = None  # a crowd is one user
STREAMS["PUBLISH_MESSAGES_PER_MINUTE"] = None

# Which notifier is measured, where it is not the one that the demo site would choose.
if os.environ.get("BENCH_NOTIFIER") == "local":
    STREAMS["NOTIFIER"] = {"BACKEND": "streams.notifiers.local.LocalNotifier"}
if layer := os.environ.get("BENCH_LAYER"):
    CHANNEL_LAYERS["default"]["BACKEND"] = layer

if CARRY := os.environ.get("BENCH_CARRY"):
    STREAMS["NOTIFIER"] = {**STREAMS["NOTIFIER"], "OPTIONS": {"carry_messages": CARRY == "yes"}}
