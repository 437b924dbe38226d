"""Empty the database after a test that commits, by deleting rows.

Django's own way is the `flush` command: it truncates all tables and then makes all content types and permissions again,
which takes longer than most tests. Here they stay, because no test changes them. Sequences go on in both cases.
"""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.test import TransactionTestCase

from streams.runtime import executor

KEPT = {"django_content_type", "auth_permission"}

flush = TransactionTestCase._fixture_teardown


def delete_rows(alias: str) -> None:
    """Delete the rows of all tables but those in `KEPT`, in one transaction: foreign keys are checked at its end."""
    connection = connections[alias]
    tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
    statements = [f"DELETE FROM {connection.ops.quote_name(name)}" for name in tables if name not in KEPT]
    if connection.vendor == "postgresql":
        statements = ["; ".join(statements)]
    connection.ops.execute_sql_flush(statements)


def finish_periodic_work() -> None:
    """Wait for what the test left to do: a process whose last stream has ended writes its row afterwards."""
    if executor.PERIODIC._threads:
        executor.PERIODIC.submit(bool).result(timeout=60)  # it has one thread, which works in order


def fixture_teardown(case: Any) -> None:
    """Replace `TransactionTestCase._fixture_teardown`, which pytest-django's `transactional_db` calls as well."""
    finish_periodic_work()
    if case.available_apps is not None or case.serialized_rollback:
        flush(case)
        return
    for alias in case._databases_names(include_mirrors=False):
        delete_rows(alias)
