"""Makes the fixtures of tests/relay/conftest.py available here."""

from tests.relay.conftest import *  # noqa: F403 - for the fixtures
