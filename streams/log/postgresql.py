"""How PostgreSQL gives positions: a lock that is tried and not waited for, and one statement that numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

from streams.log.transactions import limits

# These values change with the server, the database and the table, and with the durability of commits. The database's
# identity takes longer to read, so that it is compared once for each place.
#
# The procedure of migration 0007 has the same expression: with another one it would never give positions.
PLACE = (
    "concat_ws(' ', pg_relation_filepath(tableoid), extract(epoch FROM pg_postmaster_start_time()), "
    "current_setting('fsync'), current_setting('synchronous_commit'))"
)

# The lock is in a statement of its own: the next statement's snapshot is then younger than every commit that went
# before it. A statement that locked and numbered would number with a snapshot from before the lock.
#
# SKIP LOCKED needs no more privileges than publishing does, and returns the newest version of the row.
_ROW = f"SELECT head, epoch, identity, {PLACE}%s FROM streams_loghead WHERE id = 1 FOR UPDATE"  # noqa: S608 - fixed texts

# Rows that another transaction has locked, such as those of a user who is being deleted, are passed over: a later
# search finds them. Waiting for them would make all publishers wait.
#
# The head is the newest position, not a count.
NUMBER = """
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
    """LogHead's row, locked."""

    head: int
    epoch: int
    identity: str
    place: str  # the value of PLACE; empty on SQLite
    may_wait: bool | None = None  # messages wait for positions; None if only another statement can see that


def try_lock(cursor: Any) -> Row | None:
    """Lock the head's row and return it; None if another transaction has locked it, or if it is missing."""
    return _lock(cursor, _ROW % f", {limits(cursor.db)}" + " SKIP LOCKED")


def wait_for_lock(cursor: Any) -> Row | None:
    """See try_lock(). Waits for the lock, for as long as the transaction's lock_timeout allows."""
    return _lock(cursor, _ROW % "")


def _lock(cursor: Any, statement: str) -> Row | None:
    cursor.execute(statement)
    return next((Row(*row[:4]) for row in cursor.fetchall()), None)  # without the values of limits()


def number(cursor: Any, head: int, after_id: int, limit: int | None) -> dict[int, int]:
    """Give the positions after `head` to committed messages without one, in the order of their ids, at most `limit`."""
    cursor.execute(NUMBER, [after_id, limit, head])
    return dict(cursor.fetchall())
