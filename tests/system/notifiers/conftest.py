"""The fixtures of tests/notifiers/conftest.py."""

from tests.notifiers.conftest import *  # noqa: F403 - fixtures
