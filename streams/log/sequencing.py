"""Sequence: give positions to committed messages, under the lock of LogHead's one row."""

from __future__ import annotations

import contextlib
from typing import Any

from django.db import connections

from streams.log import epochs
from streams.log.transactions import own_transaction
from streams.threads import database


def sequence() -> dict[int, int]:
    """Give positions to all committed messages that have none. Returns {primary key: position}, in order.

    Takes the head's lock, held until the calling thread's transaction ends; without one, until this call ends.
    """
    alias = database()
    connection = connections[alias]
    # Within a transaction, no savepoint: it would be two statements more for every publish.
    within = contextlib.nullcontext() if connection.in_atomic_block else own_transaction()
    with within, connection.cursor() as cursor:
        number = _number_on_postgresql if connection.vendor == "postgresql" else _number_on_sqlite
        numbered = number(cursor)
        if numbered is None:
            epochs.create_head()
            numbered = number(cursor)
    assert numbered is not None
    return numbered


def _number_on_postgresql(cursor: Any) -> dict[int, int] | None:
    # The lock in a statement of its own: the next one's snapshot is then younger than every commit that went before.
    # Locking and numbering in one would wait with an old snapshot, and number rows that others had just numbered.
    # The head is the newest position and no count: a row that somebody is deleting may get a number and not be placed.
    identity = epochs.identity_sql(connections[database()])
    cursor.execute(
        f"SELECT head, epoch, identity, {identity} FROM streams_loghead WHERE id = 1 FOR UPDATE"  # noqa: S608 - fixed texts
    )
    if (row := cursor.fetchone()) is None:
        return None
    head = epochs.check(cursor, *row)
    cursor.execute(
        """
        WITH numbered AS (
            SELECT id, row_number() OVER (ORDER BY id) AS n FROM streams_message WHERE position IS NULL
        ), placed AS (
            UPDATE streams_message AS message SET position = %s + n FROM numbered
            WHERE message.id = numbered.id RETURNING message.id, message.position
        ), moved AS (
            UPDATE streams_loghead SET head = (SELECT max(position) FROM placed)
            WHERE id = 1 AND EXISTS (SELECT FROM placed)
        )
        SELECT id, position FROM placed ORDER BY position
        """,
        [head],
    )
    return dict(cursor.fetchall())


def _number_on_sqlite(cursor: Any) -> dict[int, int] | None:
    # A write first: SQLite takes its one write lock at once, and never has to upgrade a read transaction, which would
    # fail whenever somebody else had written in between.
    cursor.execute(
        """
        UPDATE streams_loghead
        SET head = head + (SELECT COUNT(*) FROM streams_message WHERE position IS NULL)
        WHERE id = 1
        RETURNING head, (SELECT COUNT(*) FROM streams_message WHERE position IS NULL), epoch, identity
        """
    )
    rows = cursor.fetchall()
    if not rows:
        return None
    [(head, count, epoch, identity)] = rows
    if (start := epochs.check(cursor, head - count, epoch, identity)) != head - count:  # a new epoch
        head = start + count
        cursor.execute("UPDATE streams_loghead SET head = %s WHERE id = 1", [head])
    cursor.execute(
        """
        UPDATE streams_message SET position = %s + 1 - numbered.n
        FROM (
            SELECT id, ROW_NUMBER() OVER (ORDER BY id DESC) AS n FROM streams_message WHERE position IS NULL
        ) AS numbered
        WHERE streams_message.id = numbered.id RETURNING streams_message.id, position
        """,
        [head],
    )
    return dict(sorted(cursor.fetchall(), key=lambda row: row[1]))
