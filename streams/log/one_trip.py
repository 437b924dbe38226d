"""Transactions on PostgreSQL in as few round trips as can be: lock the head, insert or number, commit.

With a trip for each statement, a publisher would hold the lock while its process waits for the processor and for the
network. Each statement's snapshot is younger than the lock, as in postgresql.py. The head travels between statements in
a setting of the transaction.

The lock is only taken if the database is known: `known` is what epochs.check() has found to be right. It is compared in
the same statement, so that an older copy of the log gives no position before its epoch has started.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connections

from streams.log.postgresql import NUMBER, PLACE
from streams.log.rows import fill, typed_values
from streams.log.transactions import limits, own_transaction
from streams.models import Message
from streams.threads import database

_KNOWN = " AND ".join(["identity = %s", *(f"{part} = %s" for part in PLACE)])
_LOCKED = f"SELECT head FROM streams_loghead WHERE id = 1 AND {_KNOWN} {{condition}} FOR UPDATE SKIP LOCKED"  # noqa: S608

_WAITING = "EXISTS (SELECT 1 FROM streams_message WHERE position IS NULL AND id > %s)"

# The function is called for a row that was locked, because a subquery with FOR UPDATE is not merged with its query.
_LOCK_AND_KEEP = f"""
    SELECT set_config('streams.head', head::text, true) FROM ({_LOCKED.format(condition="")}) AS locked
"""  # noqa: S608 - fixed texts

# Without the lock there is no head, and messages that wait come first: then the new ones get no positions.
_INSERT = """
    WITH added AS (
        INSERT INTO streams_message (position, {columns})
        SELECT CASE WHEN NOT {waiting} THEN NULLIF(current_setting('streams.head', true), '')::bigint + new.n END,
            {new_columns}
        FROM (VALUES {values}) AS new (n, {columns}) ORDER BY new.n
        RETURNING id, position, created_at
    ), moved AS (
        UPDATE streams_loghead SET head = (SELECT max(position) FROM added)
        WHERE id = 1 AND EXISTS (SELECT FROM added WHERE position IS NOT NULL)
    )
    SELECT id, position, created_at FROM added
"""


def store(rows: Sequence[Message], known: Sequence[Any], *, after_id: int) -> bool:
    """Insert rows, with positions if the lock is free and no messages wait. Return True if the lock was free."""
    columns, values, parameters = typed_values(rows, connections[database()])
    insert = _INSERT.format(
        columns=", ".join(columns),
        new_columns=", ".join(f"new.{name}" for name in columns),
        values=values,
        waiting=_WAITING,
    )
    with _transaction() as run:
        *locked, added = run(f"{_LOCK_AND_KEEP}; {insert}", [*known, after_id, *parameters], commit=True)
    added.sort()
    fill(rows, [(pk, at) for pk, _, at in added])
    for row, (_, position, _) in zip(rows, added, strict=True):
        row.position = position
    return bool(locked[0])


def is_known(known: Sequence[Any]) -> bool:
    """Return True if the database is the one that was known."""
    with connections[database()].cursor() as cursor:
        cursor.execute(f"SELECT 1 FROM streams_loghead WHERE id = 1 AND {_KNOWN}", known)  # noqa: S608 - fixed texts
        return cursor.fetchone() is not None


def step(known: Sequence[Any], *, after_id: int, limit: int) -> dict[int, int] | None:
    """Number messages that wait, at most `limit`. Return None if the lock is taken, if no message waits, or if the
    database is not known.
    """
    lock = f"SELECT head, {limits()} FROM ({_LOCKED.format(condition=f'AND {_WAITING}')}) AS locked"  # noqa: S608
    with _transaction() as run:
        [locked] = run(lock, [*known, after_id])
        if not locked:
            return None
        [numbered] = run(NUMBER, [after_id, limit, locked[0][0]], commit=True)
    return dict(numbered)


@contextlib.contextmanager
def _transaction() -> Iterator[Any]:
    """Yield a function that runs statements in a transaction, or in a part of a test's, and returns the rows of each.

    The transaction begins with the first call, and ends with the call that says `commit`, or else without one.
    """
    from psycopg import ClientCursor

    connection: Any = connections[database()]
    connection.ensure_connection()
    in_test = connection.in_atomic_block
    # A test's transaction keeps the setting of an earlier call.
    begin = "SELECT set_config('streams.head', '', true); " if in_test else "BEGIN ISOLATION LEVEL READ COMMITTED; "

    def run(statements: str, parameters: Sequence[Any], *, commit: bool = False) -> list[list[tuple[Any, ...]]]:
        nonlocal begin
        # Several statements with parameters need client-side binding, whatever the site has chosen for its own queries.
        with connection.wrap_database_errors:
            text = ClientCursor(connection.connection).mogrify(statements, parameters)
        found = _execute(connection, begin + text + ("; COMMIT" if commit and not in_test else ""))
        if in_test and begin:
            del found[0]
        begin = ""
        return found

    with own_transaction(with_limits=False) if in_test else contextlib.nullcontext():
        try:
            yield run
        finally:
            if not in_test:
                with contextlib.suppress(Exception):  # the connection is lost
                    connection.connection.rollback()  # does nothing after a commit


def _execute(connection: Any, text: str) -> list[list[tuple[Any, ...]]]:
    """Execute several statements, and return the rows of each that returns rows."""
    from psycopg import ClientCursor

    found = []
    with contextlib.ExitStack() as stack:
        if connection.settings_dict["OPTIONS"].get("server_side_binding"):
            # Django's cursor would prepare the text on the server, which takes one statement at a time.
            stack.enter_context(connection.wrap_database_errors)
            cursor: Any = stack.enter_context(ClientCursor(connection.connection))
        else:
            cursor = stack.enter_context(connection.cursor())
        cursor.execute(text)
        while True:
            if cursor.description is not None:
                found.append(cursor.fetchall())
            if not cursor.nextset():
                return found
