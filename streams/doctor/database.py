"""Check the log's database: its answer, its migrations, and its options."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from django.apps import apps
from django.db import Error, connections
from django.db.migrations.executor import MigrationExecutor

from streams import presence
from streams.conf import settings
from streams.doctor.findings import Finding, Findings, ok, problem, warning
from streams.runtime import executor, failures
from streams.runtime.connections import is_pooled

T = TypeVar("T")

# The time limit for each question to the database.
DATABASE_SECONDS = 10.0

# The share of max_connections above which PostgreSQL counts as nearly full.
FULL = 0.9

MAX_NAMES = 3

SUPPORTED = ("sqlite", "postgresql")


def in_time(function: Callable[[], T]) -> T:
    """Return `function()`, which queries the log's database. Raise DatabaseTimeout after DATABASE_SECONDS."""
    return asyncio.run(executor.run(function, seconds=DATABASE_SECONDS))


def log_connection() -> Any:
    """Return the calling thread's connection to the log's database."""
    return connections[executor.database()]


def check_database() -> Generator[Finding, None, bool]:
    """Yield whether the database answers. Return True if it does, and if Streams supports it."""
    alias = executor.database()
    if log_connection().vendor not in SUPPORTED:
        return False  # streams.E005 has reported it

    def ask() -> str:
        connection = log_connection()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return f"{connection.display_name} {'.'.join(map(str, connection.get_database_version()))}"

    try:
        version = in_time(ask)
    except Error as error:
        driver = str(error).partition("\n")[0]
        yield problem(
            "database",
            f"The database {alias!r} cannot be used ({driver}). {failures.explain(error)} Its tables were not checked.",
            f"Check that the server runs, and DATABASES[{alias!r}]: HOST, PORT, NAME, USER and PASSWORD.",
        )
        return False
    yield ok("database", f"The database {alias!r} answers: {version}.")
    return True


def check_migrations() -> Generator[Finding, None, bool]:
    """Yield whether all migrations of Streams are applied, and return that."""
    alias = executor.database()
    labels = {config.label for config in apps.get_app_configs() if config.name.partition(".")[0] == "streams"}

    def compare() -> tuple[list[str], list[str]]:
        loader = MigrationExecutor(log_connection()).loader
        applied, known = set(loader.applied_migrations), set(loader.disk_migrations)
        squashed = {name for migration in loader.replacements for name in loader.replacements[migration].replaces}
        return _names(known - applied, labels), _names(applied - known - squashed, labels)

    try:
        missing, unknown = in_time(compare)
    except Error as error:
        yield problem("migrations", f"The migrations cannot be read. {failures.explain(error)}")
        return False
    if missing:
        more = f" and {len(missing) - MAX_NAMES} more" if len(missing) > MAX_NAMES else ""
        yield problem(
            "migrations",
            f"The database {alias!r} lacks migrations: {', '.join(missing[:MAX_NAMES])}{more}. Its tables were not "
            "checked.",
            "Run `manage.py migrate`." if alias == "default" else f"Run `manage.py migrate --database={alias}`.",
        )
        return False
    if unknown:
        yield warning(
            "migrations",
            f"The database has migrations that this version does not know: {', '.join(unknown[:MAX_NAMES])}.",
            "Another process runs a newer version. Upgrade this one with `pip install --upgrade django-sse-streams`.",
        )
    else:
        yield ok("migrations", "All migrations of Streams are applied.")
    return True


def _names(migrations: set[Any], labels: set[str]) -> list[str]:
    return sorted(f"{label}.{name}" for label, name in migrations if label in labels)


def check_options() -> Findings:
    """Check how the connections to the database are set up."""
    if log_connection().vendor == "sqlite":
        yield from _check_sqlite()
    else:
        yield from _check_connections()


def _check_sqlite() -> Findings:
    alias, connection = executor.database(), log_connection()
    if connection.is_in_memory_db():
        yield problem(
            "SQLite",
            "The database is in memory, so that each process has its own and loses it when it ends.",
            f"Write the path of a file into DATABASES[{alias!r}]['NAME'].",
        )
        return
    options = connection.settings_dict["OPTIONS"]

    def journal_mode() -> str:
        with log_connection().cursor() as cursor:
            cursor.execute("PRAGMA journal_mode")
            return str(cursor.fetchone()[0]).lower()

    mode, begin = in_time(journal_mode), str(options.get("transaction_mode") or "DEFERRED").upper()
    if mode != "wal" and "journal_mode" in str(options.get("init_command", "")).lower():
        yield warning(
            "SQLite",
            f"init_command asks for the write-ahead log, but the journal mode is {mode!r}. A write blocks all streams.",
            "Move the file to a local disk: the write-ahead log does not work on network file systems.",
        )
    if begin not in ("IMMEDIATE", "EXCLUSIVE"):
        yield warning(
            "SQLite",
            f"Transactions begin as {begin}. One that reads first and then writes can fail with “database is locked”.",
            f"In DATABASES[{alias!r}]['OPTIONS'], write 'transaction_mode': 'IMMEDIATE'.",
        )
    yield ok("SQLite", f"Journal mode {mode.upper()}, transactions begin as {begin}.")


def _check_connections() -> Findings:
    """Compare the connections that the processes can use with those that PostgreSQL allows."""

    def ask() -> tuple[int, int, int]:
        with log_connection().cursor() as cursor:
            cursor.execute(
                """
                SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
                    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
                """
            )
            allowed, used = cursor.fetchone()
        return allowed, used, len(presence.nodes())

    allowed, used, processes = in_time(ask)
    of_one = executor.max_threads() + 1  # and the listener of PostgresNotifier
    needed = of_one * max(1, processes)
    if used > FULL * allowed or needed > allowed:
        yield warning(
            "connections",
            f"Of PostgreSQL's {allowed} connections, {used} are in use. For the log alone, the processes that serve "
            f"streams ({processes}) can use {needed}.",
            "Raise `max_connections` in postgresql.conf, or lower STREAMS['DATABASE_THREADS'], which is "
            f"{settings.DATABASE_THREADS}. A process uses twice as many connections, plus four.",
        )
    pool = " from Django's pool" if is_pooled(log_connection()) else ""
    yield ok("connections", f"A process uses up to {of_one} connections{pool}. {used} of {allowed} are in use.")
