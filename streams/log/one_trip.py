"""Whole transactions on PostgreSQL in one round trip: lock the head, number the messages that wait, insert, commit.

With a trip for each statement, a publisher would hold the lock while its process waits for the processor and for the
network, and a process that stops would keep it. The statements have the same order as in postgresql.py, so that each
one's snapshot is younger than the lock. The head travels between them in a setting of the transaction.

The lock is only taken if the database is known: `known` is what epochs.check() has found to be right. It is compared in
the same statement, so that an older copy of the log gives no position before its epoch has started.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from django.db import connections

from streams.log.rows import fill, typed_values
from streams.log.transactions import own_transaction
from streams.models import Message
from streams.threads import database

_LOCK = """
    WITH known AS MATERIALIZED (
        SELECT identity = %s AND pg_relation_filepath(tableoid) = %s AND pg_postmaster_start_time() = %s AS ok
        FROM streams_loghead WHERE id = 1
    ), locked AS MATERIALIZED (
        SELECT head FROM streams_loghead WHERE id = 1 AND (SELECT ok FROM known) {condition} FOR UPDATE SKIP LOCKED
    )
    SELECT (SELECT ok FROM known), set_config('streams.head', COALESCE((SELECT head FROM locked)::text, ''), true)
"""

_NUMBER = """
    WITH head AS MATERIALIZED (
        SELECT NULLIF(current_setting('streams.head'), '')::bigint AS at
    ), waiting AS MATERIALIZED (
        SELECT id FROM streams_message WHERE position IS NULL AND id > %s AND (SELECT at FROM head) IS NOT NULL
        ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
    ), placed AS (
        UPDATE streams_message AS message SET position = (SELECT at FROM head) + numbered.n
        FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM waiting) AS numbered
        WHERE message.id = numbered.id RETURNING message.id, message.position
    )
"""

_NUMBER_ONLY = f"""{_NUMBER}
    , moved AS (
        UPDATE streams_loghead SET head = given.newest FROM (SELECT max(position) AS newest FROM placed) AS given
        WHERE streams_loghead.id = 1 AND given.newest IS NOT NULL
    )
    SELECT id, position FROM placed ORDER BY position
"""  # noqa: S608 - fixed texts

# Without the lock, or if too many messages wait for one step, the new ones get no positions.
_NUMBER_AND_INSERT = """{number}
    , added AS (
        INSERT INTO streams_message (position, {columns})
        SELECT (SELECT at FROM head) + CASE WHEN earlier.n < {limit} THEN earlier.n + new.n END, {new_columns}
        FROM (SELECT count(*) AS n FROM waiting) AS earlier, (VALUES {values}) AS new (n, {columns})
        ORDER BY new.n RETURNING id, position, created_at
    ), moved AS (
        UPDATE streams_loghead SET head = given.newest FROM (
            SELECT max(position) AS newest
            FROM (SELECT position FROM placed UNION ALL SELECT position FROM added) AS of_both
        ) AS given
        WHERE streams_loghead.id = 1 AND given.newest IS NOT NULL
    )
    SELECT true, id, position, created_at FROM added UNION ALL SELECT false, id, position, NULL FROM placed
"""


class Outcome(NamedTuple):
    """`is_known`: the database is the one that was expected; None if the head's row is missing. `has_locked`: the lock
    was free. `numbered`: {id: position} of the messages that got positions, in order."""

    is_known: bool | None
    has_locked: bool
    numbered: dict[int, int]


def store(rows: Sequence[Message], known: Sequence[Any], *, after_id: int, limit: int) -> Outcome:
    """Insert rows, with positions if the lock is free, and number the messages that waited before them."""
    columns, values, parameters = typed_values(rows, connections[database()])
    insert = _NUMBER_AND_INSERT.format(
        number=_NUMBER,
        columns=", ".join(columns),
        new_columns=", ".join(f"new.{name}" for name in columns),
        values=values,
        limit=limit,
    )
    [[(is_known, head)], stored] = _run(
        f"{_LOCK.format(condition='')}; {insert}", [*known, after_id, limit, *parameters]
    )
    own = sorted((pk, position, at) for is_own, pk, position, at in stored if is_own)
    fill(rows, [(pk, at) for pk, _, at in own])
    for row, (_, position, _) in zip(rows, own, strict=True):
        row.position = position
    numbered = {pk: position for _, pk, position, _ in stored if position is not None}
    return Outcome(is_known, bool(head), dict(sorted(numbered.items(), key=lambda item: item[1])))


def step(known: Sequence[Any], *, after_id: int, limit: int) -> Outcome:
    """Number messages that wait, at most `limit`. The lock is not taken if there are none."""
    waiting = "AND EXISTS (SELECT 1 FROM streams_message WHERE position IS NULL AND id > %s)"
    statements = f"{_LOCK.format(condition=waiting)}; {_NUMBER_ONLY}"
    [[(is_known, head)], numbered] = _run(statements, [*known, after_id, after_id, limit])
    return Outcome(is_known, bool(head), dict(numbered))


def _run(statements: str, parameters: Sequence[Any]) -> list[list[tuple[Any, ...]]]:
    """Run statements as one transaction, or as a part of a test's, and return the rows of each."""
    from psycopg import ClientCursor

    connection: Any = connections[database()]
    connection.ensure_connection()
    # Several statements with parameters need client-side binding, whatever the site has chosen for its own queries.
    text = ClientCursor(connection.connection).mogrify(statements, parameters)
    if connection.in_atomic_block:
        with own_transaction(with_limits=False):
            return _execute(connection, text)
    try:
        return _execute(connection, f"BEGIN ISOLATION LEVEL READ COMMITTED; {text}; COMMIT")
    except BaseException:
        with contextlib.suppress(Exception):  # the connection is lost, or the transaction has ended
            connection.connection.rollback()
        raise


def _execute(connection: Any, text: str) -> list[list[tuple[Any, ...]]]:
    found = []
    with connection.cursor() as cursor:
        cursor.execute(text)
        while True:
            if cursor.description is not None:
                found.append(cursor.fetchall())
            if not cursor.nextset():
                return found
