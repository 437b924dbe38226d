"""Test suites like those of users run with Django's runner and with pytest, on each kind of test database.

Each suite succeeds, ends by itself and destroys its database, without a warning.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.services.postgres import PostgresServer
from tests.support.sites import PYTHON, ROOT

pytestmark = [pytest.mark.once, pytest.mark.slow]

# A suite takes less than half a minute on an idle machine. A suite that exceeds this limit hangs.
SECONDS = 400

# The settings that `startproject` creates, with the test database in memory or in a file, and PostgreSQL.
SETTINGS = {
    "memory": 'DATABASES["default"].pop("OPTIONS")',
    "file": ('DATABASES["default"].pop("OPTIONS")\nDATABASES["default"]["TEST"] = {{"NAME": "{folder}/test.sqlite3"}}'),
    "postgresql": "",
}

# A class whose tests run in a transaction, and a class whose tests commit.
ONE_OF_EACH = [f"tests.runtime.test_in_testcase.{name}" for name in ("InTestCase", "InTransactionTestCase")]

# Messages of asyncio, Python and databases about resources that were left open.
COMPLAINTS = (
    "was never awaited",
    "was destroyed but it is pending",
    "was never retrieved",
    "Exception ignored",
    "is being accessed by other users",
    "unclosed",
    "Warning:",
)


@dataclass
class Suite:
    """The environment of a user's suite, and the name of its settings in SETTINGS."""

    env: dict[str, str]
    database: str

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [PYTHON, "-X", "faulthandler", *command],
            env=self.env,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stdout[-200_000:]
        assert [line for line in done.stdout.splitlines() if any(text in line for text in COMPLAINTS)] == []
        return done.stdout


@pytest.fixture(params=list(SETTINGS))
def suite(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Suite]:
    (tmp_path / "users_settings.py").write_text(
        "from tests.settings import *\n" + SETTINGS[request.param].format(folder=tmp_path)
    )
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "users_settings",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "SECRET_KEY": "for-tests-only",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "LOG_LEVEL": "ERROR",
    }
    postgres: PostgresServer | None = None
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
        env["DATABASE_URL"] = postgres.dsn(postgres.create_database())
    yield Suite(env, request.param)
    assert not (tmp_path / "test.sqlite3").exists()
    if postgres is not None:
        assert postgres.execute("SELECT datname FROM pg_database WHERE datname LIKE 'test_%'") == []


def test_djangos_runner(suite: Suite) -> None:
    runner = "--testrunner=tests.support.users_runner.CheckingRunner"
    # `make test` runs all classes on both databases with pytest. Here, the runner and its databases are tested.
    tests = ["tests.runtime.test_in_testcase"] if suite.database == "file" else ONE_OF_EACH
    assert "Nothing is left behind." in suite.run("manage.py", "test", runner, *tests, "--shuffle")


@pytest.mark.parametrize("suite", ["postgresql"], indirect=True)
def test_djangos_runner_in_parallel(suite: Suite) -> None:
    suite.run("manage.py", "test", "--parallel=2", *ONE_OF_EACH)


def test_pytest(suite: Suite) -> None:
    """The suite runs without this project's conftest.py, which users do not have, and so with Django's own flush."""
    classes = [f"tests/runtime/test_in_pytest_django.py::{name}" for name in ("TestWithDb", "TestWithTransactionalDb")]
    tests = ["tests/runtime/test_in_pytest_django.py"] if suite.database == "file" else classes
    suite.run("-m", "pytest", "--noconftest", "-p", "no:randomly", "-p", "no:cacheprovider", "-q", *tests)
