"""The tests as an app of the site that they start: it breaks that site where the chaos suite is to be seen to fail."""

import os

from django.apps import AppConfig


class TestsConfig(AppConfig):
    name = "tests"

    def ready(self) -> None:
        if which := os.environ.get("CHAOS_BREAK"):
            from tests.chaos import broken

            broken.install(which)
