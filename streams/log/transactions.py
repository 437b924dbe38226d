"""Transactions of the log's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from django.db import connections, transaction

from streams.threads import database, wrapped_in_test


@contextlib.contextmanager
def own_transaction() -> Iterator[None]:
    """A transaction of the log's own, in which each statement sees what was committed before it.

    Also where the site has set another isolation level for its own work: under REPEATABLE READ, whoever waited for
    the head's lock would fail instead of going on with the new head.
    """
    alias = database()
    connection = connections[alias]
    outermost = not connection.in_atomic_block
    with transaction.atomic(using=alias):
        if outermost and connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                if _isolation_level(connection) is not None:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                if wrapped_in_test() is not None:
                    # Its transaction holds the head's lock until the test ends, and the test may wait for this thread.
                    cursor.execute("SET LOCAL lock_timeout = '5s'")
        yield


def _isolation_level(connection: Any) -> Any:
    return connection.settings_dict["OPTIONS"].get("isolation_level")
