"""What the doctor says about the log's database, its migrations, and its options."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError, connection, connections
from django.db.migrations.recorder import MigrationRecorder

from streams.doctor import database
from streams.doctor.database import check_database, check_migrations, check_options
from streams.models import Node
from tests.admin.test_nodes import make

pytestmark = pytest.mark.django_db(transaction=True)


def result(check: Any) -> tuple[list[Any], object]:
    """Return the findings of a check, and its return value."""
    findings = []
    while True:
        try:
            findings.append(next(check))
        except StopIteration as end:
            return findings, end.value


# --- Answers ----------------------------------------------------------------------------------------------------------


def test_database_that_answers_is_good() -> None:
    [found], works = result(check_database())
    assert works is True
    assert connection.display_name in found.text


def test_database_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: Any) -> None:
        raise OperationalError('connection to server at "db" failed\nSELECT secret')

    monkeypatch.setattr(database, "in_time", fail)
    [found], works = result(check_database())
    assert works is False
    assert "does not answer" in found.text
    assert "SELECT secret" not in found.text
    assert "DATABASES['default']: HOST" in found.remedy


# --- Migrations -------------------------------------------------------------------------------------------------------


def test_applied_migrations_are_good() -> None:
    [found], works = result(check_migrations())
    assert (found.level.name, works) == ("OK", True)


def test_missing_migration_is_found() -> None:
    MigrationRecorder(connection).record_unapplied("streams", "0010_logged_in")
    try:
        [found], works = result(check_migrations())
    finally:
        MigrationRecorder(connection).record_applied("streams", "0010_logged_in")
    assert works is False
    assert "lacks migrations: streams.0010_logged_in." in found.text
    assert found.remedy == "Run `manage.py migrate`."


def test_migration_of_newer_version_is_found() -> None:
    MigrationRecorder(connection).record_applied("streams", "9999_future")
    try:
        [found], works = result(check_migrations())
    finally:
        MigrationRecorder(connection).record_unapplied("streams", "9999_future")
    assert works is True
    assert "streams.9999_future" in found.text
    assert "newer version" in found.remedy


# --- Options ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sqlite_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let the database seem to be a file with good options, and return these."""
    if connection.vendor != "sqlite":
        pytest.skip("for SQLite")
    options = {"init_command": "PRAGMA journal_mode=WAL;", "transaction_mode": "IMMEDIATE"}
    monkeypatch.setattr(connections["default"], "is_in_memory_db", lambda: False)
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    monkeypatch.setattr(database, "in_time", lambda function: "wal")
    return options


def test_sqlite_with_good_options_is_good(sqlite_file: dict[str, Any]) -> None:
    [found] = check_options()
    assert found.text == "Journal mode WAL, transactions begin as IMMEDIATE."


def test_deferred_transactions_are_found(sqlite_file: dict[str, Any]) -> None:
    del sqlite_file["transaction_mode"]
    found = next(check_options())
    assert found.level.name == "WARNING"
    assert "'transaction_mode': 'IMMEDIATE'" in found.remedy


def test_missing_wal_is_found(sqlite_file: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite stays in its old mode if the file system cannot share memory."""
    monkeypatch.setattr(database, "in_time", lambda function: "delete")
    found = next(check_options())
    assert "the journal mode is 'delete'" in found.text
    assert "local disk" in found.remedy


def test_sqlite_in_memory_is_found() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("for SQLite")
    [found] = check_options()
    assert "is in memory" in found.text
    assert "DATABASES['default']['NAME']" in found.remedy


@pytest.fixture
def on_postgresql() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("for PostgreSQL")


@pytest.mark.usefixtures("on_postgresql")
def test_enough_connections_are_good() -> None:
    [found] = check_options()
    assert "A process uses up to 12 connections." in found.text


@pytest.mark.usefixtures("on_postgresql")
def test_too_few_connections_are_found(settings: Any) -> None:
    settings.STREAMS = {"DATABASE_THREADS": 100}
    make("a")
    make("b")
    assert Node.objects.count() == 2
    found = next(check_options())
    assert found.level.name == "WARNING"
    assert "(2) can use 408." in found.text
    assert "`max_connections`" in found.remedy
