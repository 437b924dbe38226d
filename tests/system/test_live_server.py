"""A test suite of a user with a live server for streams: with Django's runner and with pytest, on each database."""

from __future__ import annotations

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
    options = ("-p", "streams.pytest_plugin", "-p", "no:randomly", "-p", "no:cacheprovider", "-q", "--noconftest")
    assert "10 passed" in suite.run("-m", "pytest", *options, path)
