"""See tests/notifiers/conftest.py."""

from tests.notifiers.conftest import *  # noqa: F403 - its fixtures
