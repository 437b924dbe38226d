"""The demo site's settings for the measured server, with less logging and without some of the limits."""

import os

os.environ.setdefault("SECRET_KEY", "for-benchmarks-only")
os.environ.setdefault("LOG_LEVEL", "WARNING")
os.environ.setdefault("HTTPS", "false")  # the measured servers use plain HTTP

from project.settings import *  # noqa: F403
from project.settings import CHANNEL_LAYERS, STREAMS

ROOT_URLCONF = "benchmarks.site"
STREAMS = {
    **STREAMS,
    "PUBLIC_CHANNELS": ["bench", "news", "news.*", "quiet"],
    "PRUNE_SECONDS": None,
    "RELAY_MAX_STREAMS": 1000,
    "RELAY_MAX_STREAMS_PER_USER": 1000,
    "RELAY_QUESTIONS_PER_MINUTE": None,
}
STREAMS["MAX_STREAMS_PER_USER"] = None  # all clients of a benchmark are one user
STREAMS["MAX_STREAMS_PER_PROCESS"] = None
STREAMS["PUBLISH_MESSAGES_PER_MINUTE"] = None

# The notifier to measure, if it is not the demo site's default.
if os.environ.get("BENCH_NOTIFIER") == "local":
    STREAMS["NOTIFIER"] = {"BACKEND": "streams.notifiers.local.LocalNotifier"}
if layer := os.environ.get("BENCH_LAYER"):
    CHANNEL_LAYERS["default"]["BACKEND"] = layer

if CARRY := os.environ.get("BENCH_CARRY"):
    STREAMS["NOTIFIER"] = {**STREAMS["NOTIFIER"], "OPTIONS": {"carry_messages": CARRY == "yes"}}
