"""The tests as an app of the site that they start: it breaks that site where the chaos suite is to be seen to fail.

It also gives a process of that suite a wrong clock, and shortens the time for which nothing is pruned if the process
that prunes is killed.
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
