"""How SQLite gives positions: under the one write lock that it has, which a transaction takes with its first write."""

from __future__ import annotations

from typing import Any

from streams.log.postgresql import Row

# A write first, even if it changes nothing: SQLite takes its write lock at once, and never has to upgrade a read
# transaction, which fails if another connection has written since the read.
_LOCK = """
    UPDATE streams_loghead SET head = head WHERE id = 1
    RETURNING head, epoch, identity, EXISTS (SELECT 1 FROM streams_message WHERE position IS NULL)
"""

_NUMBER = """
    UPDATE streams_message SET position = %s + numbered.n
    FROM (
        SELECT id, ROW_NUMBER() OVER (ORDER BY id) AS n FROM (
            SELECT id FROM streams_message WHERE position IS NULL AND id > %s ORDER BY id LIMIT %s
        )
    ) AS numbered
    WHERE streams_message.id = numbered.id RETURNING streams_message.id, position
"""


def wait_for_lock(cursor: Any) -> Row | None:
    """Lock the database, and return the head's row; None if it is missing.

    Waits for the lock, for as long as the connection's `timeout` allows.
    """
    cursor.execute(_LOCK)
    rows = cursor.fetchall()  # all of it, or SQLite leaves the statement open
    return next((Row(head, epoch, identity, "", bool(waits)) for head, epoch, identity, waits in rows), None)


def try_lock(cursor: Any) -> Row | None:
    """See wait_for_lock(). SQLite has no lock that can be skipped, so this waits as well."""
    return wait_for_lock(cursor)


def number(cursor: Any, head: int, after_id: int, limit: int | None) -> dict[int, int]:
    """Give the positions after `head` to committed messages without one, in the order of their ids, at most `limit`."""
    cursor.execute(_NUMBER, [head, after_id, -1 if limit is None else limit])
    numbered = dict(sorted(cursor.fetchall(), key=lambda row: row[1]))
    if numbered:
        cursor.execute("UPDATE streams_loghead SET head = %s WHERE id = 1", [max(numbered.values())])
    return numbered
