"""How PostgreSQL gives positions: a lock that is tried and not waited for, and one statement that numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.db import connections

from streams.log import epochs
from streams.log.transactions import limits
from streams.threads import database

# The lock is in a statement of its own: the next statement's snapshot is then younger than every commit that went
# before it. A statement that locked and numbered would number with a snapshot from before the lock.
#
# SKIP LOCKED needs no more privileges than publishing does, and returns the newest version of the row. The EXISTS tells
# a lock that is taken from a row that is missing.
_TRY = """
    WITH locked AS (
        SELECT head, epoch, identity FROM streams_loghead WHERE id = 1 FOR UPDATE SKIP LOCKED
    )
    SELECT head, epoch, identity, {found}, EXISTS (SELECT 1 FROM streams_loghead WHERE id = 1), {limits}
    FROM (SELECT 1) AS one LEFT JOIN locked ON true
"""

# Rows that another transaction has locked, such as those of a user who is being deleted, are passed over: a later
# search finds them. Waiting for them would make all publishers wait.
#
# The head is the newest position that was given, and no count.
_NUMBER = """
    WITH waiting AS MATERIALIZED (
        SELECT id FROM streams_message WHERE position IS NULL AND id > %s
        ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
    ), numbered AS (
        SELECT id, row_number() OVER (ORDER BY id) AS n FROM waiting
    ), placed AS (
        UPDATE streams_message AS message SET position = %s + n FROM numbered
        WHERE message.id = numbered.id RETURNING message.id, message.position
    ), moved AS (
        UPDATE streams_loghead SET head = (SELECT max(position) FROM placed)
        WHERE id = 1 AND EXISTS (SELECT FROM placed)
    )
    SELECT id, position FROM placed ORDER BY position
"""


class Row(NamedTuple):
    """LogHead's row, locked, and what the database says about itself at the same moment."""

    head: int
    epoch: int
    identity: str
    found_identity: str | None
    may_wait: bool | None  # messages wait for positions; None if only another statement can see that


def try_lock(cursor: Any) -> Row | bool:
    """Lock the head's row and return it. Return False if another transaction has locked it, True if it is missing."""
    found = epochs.identity_sql(connections[database()])
    cursor.execute(_TRY.format(found=found, limits=limits()))
    head, epoch, identity, found, exists, *_ = cursor.fetchone()
    return not exists if head is None else Row(head, epoch, identity, found, None)


def wait_for_lock(cursor: Any) -> Row | bool:
    """See try_lock(). Waits for the lock, for as long as the transaction's lock_timeout allows."""
    found = epochs.identity_sql(connections[database()])
    cursor.execute(f"SELECT head, epoch, identity, {found} FROM streams_loghead WHERE id = 1 FOR UPDATE")  # noqa: S608
    rows: list[tuple[int, int, str, str]] = cursor.fetchall()
    return Row(*rows[0], None) if rows else True


def number(cursor: Any, head: int, after_id: int, limit: int | None) -> dict[int, int]:
    """Give the positions after `head` to committed messages without one, in the order of their ids, at most `limit`."""
    cursor.execute(_NUMBER, [after_id, limit, head])
    return dict(cursor.fetchall())
