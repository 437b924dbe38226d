"""Transactions of the log's own: their isolation level, and the time limits that protect the head's lock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from django.db import connections, transaction

from streams.private.django import is_nested
from streams.runtime.executor import database

# A process that stops in the middle of a transaction, or a machine that vanishes, loses its locks after this time.
# PostgreSQL's own default is never.
IDLE_SECONDS = 10

# How long a transaction waits for a lock: less than a web server waits for a request.
LOCK_SECONDS = 10


@contextlib.contextmanager
def own_transaction(*, with_limits: bool = True, lock_seconds: float = LOCK_SECONDS) -> Iterator[Any]:
    """Open a transaction of the log's own, in which each statement sees what was committed before it.

    The isolation level is READ COMMITTED, whatever the site, the database or the role has set: under REPEATABLE READ, a
    transaction that waited for a lock would fail instead of going on with the new row. `with_limits` also bounds the
    waits for locks (`lock_seconds`) and the idle time; leave that out if the first statement selects `limits()`.

    Inside another transaction, such as that of a test, it is a savepoint. Yields the connection.
    """
    connection: Any = connections[database()]
    is_postgresql = connection.vendor == "postgresql"
    is_outermost = not connection.in_atomic_block
    with (
        _read_committed(connection) if is_postgresql and is_outermost else contextlib.nullcontext(),
        transaction.atomic(using=connection.alias),
    ):
        if is_postgresql and with_limits:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT {limits(connection, lock_seconds)}")
        yield connection


def limits(connection: Any, lock_seconds: float = LOCK_SECONDS) -> str:
    """Return the expressions that set PostgreSQL's time limits for the running transaction, for a SELECT's list.

    Inside another transaction, such as that of a test, the idle time is not limited: it is up to the outer one.
    """
    lock = f"set_config('lock_timeout', '{int(1000 * lock_seconds)}ms', true)"
    if is_nested(connection):
        return lock
    return f"{lock}, set_config('idle_in_transaction_session_timeout', '{IDLE_SECONDS}s', true)"


@contextlib.contextmanager
def _read_committed(connection: Any) -> Iterator[None]:
    """Have the next transaction begin at READ COMMITTED.

    The driver puts the level into its BEGIN, which costs no statement and overrides the session's default.
    """
    from psycopg import IsolationLevel

    connection.close_if_health_check_failed()
    connection.ensure_connection()
    driver = connection.connection
    before = driver.isolation_level
    with connection.wrap_database_errors:  # the server can have closed the connection
        driver.isolation_level = IsolationLevel.READ_COMMITTED
    try:
        yield
    finally:
        if not driver.closed:
            driver.isolation_level = before
