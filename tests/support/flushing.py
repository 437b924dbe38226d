"""Empty the database after a test that commits, by deleting rows.

Django uses its `flush` command, which truncates all tables and then creates all content types and permissions again.
This takes longer than most tests. Here these rows stay, because no test changes them. Neither way resets sequences.
"""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.test import TransactionTestCase

from streams.runtime import executor

KEPT = {"django_content_type", "auth_permission"}

flush = TransactionTestCase._fixture_teardown


def delete_rows(alias: str) -> None:
    """Delete the rows of all tables except `KEPT`, in one transaction, because foreign keys are checked at its end."""
    connection = connections[alias]
    tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
    statements = [f"DELETE FROM {connection.ops.quote_name(name)}" for name in tables if name not in KEPT]
    if connection.vendor == "postgresql":
        statements = ["; ".join(statements)]
    connection.ops.execute_sql_flush(statements)


def finish_periodic_work() -> None:
    """Wait for work that the test has left: a process writes its presence row after its last stream has ended."""
    if executor.PERIODIC._threads:
        executor.PERIODIC.submit(bool).result(timeout=60)  # its only thread works in order


def fixture_teardown(case: Any) -> None:
    """Replace `TransactionTestCase._fixture_teardown`, which pytest-django's `transactional_db` calls as well."""
    finish_periodic_work()
    if case.available_apps is not None or case.serialized_rollback:
        flush(case)
        return
    for alias in case._databases_names(include_mirrors=False):
        delete_rows(alias)
