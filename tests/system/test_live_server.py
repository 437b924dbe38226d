"""A test suite of a user with a live server for streams: with Django's runner and with pytest, on each database."""

from __future__ import annotations

import re

import pytest

from tests.system.test_users_suites import Suite
from tests.system.test_users_suites import suite as suite

pytestmark = pytest.mark.once

SUITE = "tests.support.live_server_tests"


@pytest.mark.parametrize("suite", ["file"], indirect=True)
def test_djangos_runner(suite: Suite) -> None:
    suite.run("manage.py", "test", SUITE, "--shuffle")


@pytest.mark.parametrize("suite", ["postgresql"], indirect=True)
def test_pytest_with_the_plugin(suite: Suite) -> None:
    path = SUITE.replace(".", "/") + ".py"
    # The entry point exists only if the distribution is installed.
    plugin = ("-p", "no:streams", "-p", "streams.pytest_plugin")
    options = (*plugin, "-p", "no:randomly", "-p", "no:cacheprovider", "-q", "--noconftest")
    assert re.search("11 passed|10 passed, 1 skipped", suite.run("-m", "pytest", *options, path))
