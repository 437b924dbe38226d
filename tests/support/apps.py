"""The app that environment variables use to change the processes of the chaos suite.

It breaks Streams, so that the suite must fail, or gives the process a wrong clock. It also shortens the lease for
pruning, so that pruning goes on soon after the process that prunes was killed.
"""

import os

from django.apps import AppConfig


class TestsConfig(AppConfig):
    name = "tests.support"

    def ready(self) -> None:
        if which := os.environ.get("CHAOS_BREAK"):
            from tests.system.chaos import broken

            broken.install(which)
        if seconds := os.environ.get("CHAOS_CLOCK_SECONDS"):
            from tests.system.chaos import clocks

            clocks.shift(float(seconds))
        if seconds := os.environ.get("CHAOS_LEASE_SECONDS"):
            from streams.log import retention

            retention.LEASE_SECONDS, retention.RENEW_SECONDS = float(seconds), float(seconds) / 10
