"""Fixtures that all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from asgiref.sync import SyncToAsync
from django.db import connection, connections
from django.test import TransactionTestCase

from tests.support import flushing, selection
from tests.support.forks import MAIN, ForkedProcess
from tests.support.services import missing
from tests.support.services import redis as redis_program
from tests.support.services.postgres import PostgresServer, programs
from tests.support.services.redis import RedisServer
from tests.support.sites import Site, copy_sqlite, finish


def pytest_configure() -> None:
    # A shell that runs the tests in the background ignores these signals, and all child processes would inherit this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import files whose tests would all be deselected, because this takes longer than hundreds of tests."""
    return True if config.option.markexpr == "not system" and selection.is_system_path(collection_path) else None


@pytest.hookimpl(wrapper=True)  # -m selects at the `yield`
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    for item in items:
        if selection.is_system(item):
            item.add_marker("system")
    if connection.vendor == "postgresql":
        alike = [item for item in items if not selection.is_for_each_database(item)]
        config.hook.pytest_deselected(items=alike)
        items[:] = [item for item in items if selection.is_for_each_database(item)]
    yield
    items[:] = selection.slow_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if line := selection.skipped_line(terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(line, yellow=True)


@pytest.fixture(scope="session", autouse=True)
def _flush_by_deleting_rows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", flushing.fixture_teardown)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole run. A test that stops it must start it again."""
    if programs() is None:
        missing("PostgreSQL", "postgresql")
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def durable_postgres() -> Iterator[PostgresServer]:
    """Like `postgres`, but with fsync. Without it, each start of the server begins a new epoch of the log."""
    if programs() is None:
        missing("PostgreSQL", "postgresql")
    server = PostgresServer(fsync=True)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """A Redis server for the whole run. A test that stops it must start it again."""
    if redis_program.program() is None:
        missing("Redis", "redis-server")
    server = RedisServer()
    server.start()
    yield server
    server.remove()


def _migrate(database_url: str) -> None:
    env = {**os.environ, "DATABASE_URL": database_url, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    finish(ForkedProcess(MAIN, ["manage.py", "migrate", "-v0"], env))


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied by other fixtures."""
    path = tmp_path_factory.mktemp("template") / "db.sqlite3"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres: PostgresServer) -> str:
    """A migrated PostgreSQL database, used as a template."""
    name = postgres.create_database()
    _migrate(postgres.dsn(name))
    return name


@pytest.fixture(scope="session")
def migrated_durable_postgres(durable_postgres: PostgresServer) -> str:
    """A migrated database on the durable server, used as a template."""
    name = durable_postgres.create_database()
    _migrate(durable_postgres.dsn(name))
    return name


@pytest.fixture
def sqlite_site(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Site]:
    """A site for one test on SQLite."""
    copy_sqlite(migrated_sqlite, tmp_path / "db.sqlite3")
    site = Site(f"sqlite:///{tmp_path / 'db.sqlite3'}", tmp_path)
    yield site
    site.close()


@pytest.fixture
def postgres_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A site for one test on PostgreSQL."""
    postgres: PostgresServer = request.getfixturevalue("postgres")
    name = postgres.create_database(template=request.getfixturevalue("migrated_postgres"))
    site = Site(postgres.dsn(name), tmp_path, postgres)
    yield site
    site.close()


@pytest.fixture
def durable_postgres_site(
    durable_postgres: PostgresServer, migrated_durable_postgres: str, tmp_path: Path
) -> Iterator[Site]:
    """A site for one test on PostgreSQL, whose log keeps its epoch when the server starts again."""
    name = durable_postgres.create_database(template=migrated_durable_postgres)
    site = Site(durable_postgres.dsn(name), tmp_path, durable_postgres)
    yield site
    site.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest) -> Site:
    """A site for one test, on each kind of database in turn."""
    found: Site = request.getfixturevalue("sqlite_site" if request.param == "sqlite" else "postgres_site")
    return found


@pytest.fixture(autouse=True)
def _close_connections_of_sync_to_async() -> Iterator[None]:
    """Close the connections in asgiref's thread, because PostgreSQL cannot drop a database that is in use."""
    yield
    if SyncToAsync.single_thread_executor._threads:
        SyncToAsync.single_thread_executor.submit(connections.close_all).result()
