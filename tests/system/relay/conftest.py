"""See tests/relay/conftest.py."""

from tests.relay.conftest import *  # noqa: F403 - its fixtures
