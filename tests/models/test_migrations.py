"""The migrations are complete, and run forwards and backwards on both databases."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from django.core.management import call_command

from tests.support.services.postgres import PostgresServer
from tests.support.sites import Site, finish

LOG = {"streams_message", "streams_loghead", "streams_channel", "streams_epoch"}
TABLES = {
    *LOG,
    "streams_broadcast",
    "streams_channelsettings",
    "streams_channelsettings_groups",
    "streams_delivery",
    "streams_lease",
    "streams_logsize",
    "streams_node",
    "streams_revokedtoken",
}
RELAY = {"streams_relay_generation", "streams_relay_usage"}


def tables(site: Site) -> set[str]:
    names = (
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        if site.is_postgres
        else "SELECT name FROM sqlite_master WHERE type = 'table'"
    )
    return {name for (name,) in site.execute(names) if name.startswith("streams_")}


def indexes(site: Site) -> dict[str, str]:
    """Return the log's indexes as {name: definition}."""
    statement = (
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename LIKE 'streams_%'"
        if site.is_postgres
        else "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name LIKE 'streams_%'"
    )
    return {name: definition or "" for name, definition in site.execute(statement)}


@pytest.mark.django_db
def test_no_migration_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("makemigrations", check=True, dry_run=True)  # exits if a migration is missing
    assert capsys.readouterr().out == "No changes detected\n"


@pytest.mark.once
def test_migrations_go_back_and_forwards(site: Site) -> None:
    assert tables(site) == TABLES | RELAY
    assert site.manage("publish", "news", "first").stdout == "1\n"
    site.manage("migrate", "streams_relay", "zero")
    assert tables(site) == TABLES
    site.manage("migrate", "streams", "0001")
    assert tables(site) == LOG - {"streams_epoch"}
    assert site.execute("SELECT data FROM streams_message") == [("first",)]
    site.manage("migrate", "streams", "zero")
    assert tables(site) == set()
    site.manage("migrate")
    assert tables(site) == TABLES | RELAY
    assert site.manage("publish", "news", "first of a new log").stdout == "1\n"
    assert site.manage("migrate", "--check").returncode == 0


@pytest.mark.once
def test_readers_of_a_channel_are_renamed(site: Site) -> None:
    row = 'ChannelSettings.objects.create(channel="news", access="logged-in")'
    finish(site.script(f"from streams.models import ChannelSettings\n{row}"))
    site.manage("migrate", "streams", "0009")
    assert site.execute("SELECT access FROM streams_channelsettings") == [("signed-in",)]
    site.manage("migrate", "streams")
    assert site.execute("SELECT access FROM streams_channelsettings") == [("logged-in",)]


@pytest.mark.once
def test_log_has_its_indexes(site: Site) -> None:
    found = indexes(site)
    assert "position" in found["streams_message_replay"]
    assert "WHERE" in found["streams_message_unsequenced"], "the index is partial, so that it is nearly always empty"
    assert "WHERE" in found["streams_message_idempotency"]
    assert "UNIQUE" in found["streams_message_idempotency"]
    assert "WHERE" in found["streams_message_publisher"]
    assert "WHERE" in found["streams_broadcast_due"]
    assert "WHERE" in found["streams_broadcast_sent"]


@pytest.mark.once
@pytest.mark.parametrize("migration", ["0001", "0002"])
@pytest.mark.parametrize("direction", ["--backwards", ""])
def test_sql_of_the_migrations_can_be_printed(site: Site, direction: str, migration: str) -> None:
    arguments = ["sqlmigrate", "streams", migration, *filter(None, [direction])]
    sql = site.manage(*arguments).stdout
    assert ("DROP TABLE" if direction else "CREATE TABLE") in sql


@pytest.mark.once
@pytest.mark.parametrize("direction", ["--backwards", ""])
def test_sql_of_the_references_can_be_printed(site: Site, direction: str) -> None:
    arguments = ["sqlmigrate", "streams", "0005", *filter(None, [direction])]
    assert "streams_message_publisher" in site.manage(*arguments).stdout


@pytest.mark.once
def test_channel_names_sort_by_bytes_in_any_locale(postgres: PostgresServer, tmp_path: Path) -> None:
    """The database's default collation ignores case. Rows and indexes survive migrating in both directions."""
    name = postgres.create_database()
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}"')
        connection.execute(
            f"CREATE DATABASE \"{name}\" TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'"
        )
    site = Site(postgres.dsn(name), tmp_path, postgres)
    try:
        site.manage("migrate", "streams", "0007")
        site.execute("UPDATE streams_loghead SET head = 3")
        site.execute(
            "INSERT INTO streams_message (position, channel, event, data, size) VALUES "
            "(1, 'user.1', 'message', '', 0), (2, 'User.2', 'message', '', 0), (3, 'user_3', 'message', '', 0)"
        )
        site.execute("INSERT INTO streams_channelsettings (channel, title, access) VALUES ('a', '', '')")
        in_order = "SELECT channel FROM streams_message ORDER BY channel"
        linguistic, made = site.execute(in_order), indexes(site)
        assert linguistic != [("User.2",), ("user.1",), ("user_3",)]
        for direction in ("migrate", "back", "migrate"):
            site.manage("migrate", "streams", *(["0007"] if direction == "back" else []))
            expected = linguistic if direction == "back" else [("User.2",), ("user.1",), ("user_3",)]
            assert site.execute(in_order) == expected
            assert indexes(site) == made
        foreign_keys = "SELECT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f'"
        assert ("streams_channelsettings_groups",) in site.execute(foreign_keys)
        assert site.manage("publish", "news", "after the migration").stdout == "4\n"
    finally:
        site.close()
