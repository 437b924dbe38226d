"""Publishing works with all isolation levels and transaction modes that a site or its database chooses."""

from __future__ import annotations

import os
import threading

import pytest
from django.db import connections, transaction

from streams import log, publish
from streams.models import Message
from tests.support.sites import Site, finish
from tests.system.support import assert_no_holes, in_threads, sequenced

pytestmark = pytest.mark.once


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def publish_under_repeatable_read() -> None:
    """Publish from threads of a site whose transactions keep one snapshot."""
    connections["default"].settings_dict["OPTIONS"]["isolation_level"] = 3  # psycopg.IsolationLevel.REPEATABLE_READ

    def run() -> None:
        for number in range(20):
            publish("news", "alone")
            with transaction.atomic():
                publish("news", "inside")
                publish("news", "keyed", idempotency_key=f"{os.getpid()} {threading.get_ident()} {number}")

    in_threads(*[run] * 4)


def test_isolation_level_of_site_is_ignored(postgres_site: Site) -> None:
    for process in [postgres_site.call(publish_under_repeatable_read) for _ in range(2)]:
        finish(process)
    assert len(assert_no_holes(postgres_site)) == 2 * 4 * 20 * 3


def publish_forty(name: str) -> None:
    print(sum(publish("news", f"{name} {n}").position is not None for n in range(40)))


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_isolation_level_of_database_is_ignored(postgres_site: Site, level: str) -> None:
    """The level can be set for a database, a role or a session, and Django does not notice it."""
    name = postgres_site.database_url.rpartition("/")[2]
    postgres_site.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    processes = [postgres_site.call(publish_forty, number) for number in range(4)]
    assert [finish(process) for process in processes] == ["40\n"] * 4
    assert len(assert_no_holes(postgres_site)) == 160


# --- SQLite -----------------------------------------------------------------------------------------------------------


def publish_in_deferred_transactions(process: str) -> None:
    """Publish with Django's default for SQLite: a transaction takes the write lock with its first write."""
    connections["default"].settings_dict["OPTIONS"].pop("transaction_mode")

    def run() -> None:
        for number in range(40):
            publish("news", "x")
            publish("news", "keyed", idempotency_key=f"{process} {threading.get_ident()} {number}")
            with transaction.atomic():
                publish("news", "inside")

    in_threads(run, run)


def prune_in_deferred_transactions() -> None:
    connections["default"].settings_dict["OPTIONS"].pop("transaction_mode")
    for number in range(1, 100):
        log.delete_through(number * 2, limit=2)


def test_publishing_works_in_deferred_transactions(sqlite_site: Site) -> None:
    running = [sqlite_site.call(publish_in_deferred_transactions, number) for number in range(2)]
    running.append(sqlite_site.call(prune_in_deferred_transactions))
    for process in running:
        finish(process)
    positions = [position for position, _ in sequenced(sqlite_site)]
    assert positions == list(range(positions[0], 2 * 2 * 40 * 3 + 1))


def forget_users_in_deferred_transactions() -> None:
    """Forget users outside a transaction, as when the users are in another database than the log."""
    connections["default"].settings_dict["OPTIONS"].pop("transaction_mode")
    for number in range(100):
        Message.objects.create(channel=f"user.{number}", published_by_id=number, data="x", size=1)
        log.current_head()
        log.forget_publisher(number)
        log.forget_addressee(number)
    assert not Message.objects.filter(channel__startswith="user.").exists()


def test_users_are_forgotten_in_deferred_transactions(sqlite_site: Site) -> None:
    running = [sqlite_site.call(publish_in_deferred_transactions, number) for number in range(2)]
    running.append(sqlite_site.call(forget_users_in_deferred_transactions))
    for process in running:
        finish(process)
