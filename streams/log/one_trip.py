"""Publish and number on PostgreSQL in one round trip, by a procedure that a migration has created.

With a trip for each statement, a publisher would hold the lock while its process waits for the processor and for the
network; and each process would have to ask again and again whether another one has given its positions.

The lock is only taken if the database is known: `expected` is the identity and the place that epochs.check() has found
to be right. They are compared in the same statement, so that an older copy of the log gives no position before its
epoch has started.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from django.db import connections

from streams.log import known
from streams.log.postgresql import PLACE
from streams.runtime.executor import database

# The columns of a message that is published, in the order of the procedure's parameters.
COLUMNS = ("channel", "event", "data", "size", "published_by_id", "idempotency_key")

# For how long a call waits on the server for positions that another process gives.
PATIENCE_SECONDS = 0.25

_CALL = """
    CALL streams_publish(%s, %s, %s, %s, %s, %s::text[], %s::text[], %s::text[], %s::int[], %s::text[], %s::text[],
        %s::bigint[], NULL, NULL, NULL, NULL, NULL, NULL, NULL)
"""


class Outcome(NamedTuple):
    """The result of a transaction that gave positions."""

    numbered: dict[int, int]  # {id: position}, in order
    must_look: bool  # others can have left messages to this process: it held the lock in its last transaction


def is_possible() -> bool:
    """Return True if the database has the procedure, and the role may call it."""
    with connections[database()].cursor() as cursor:
        cursor.execute("SELECT has_function_privilege(to_regproc('streams_publish'), 'EXECUTE')")
        return bool(cursor.fetchone()[0])


def is_known(expected: Sequence[str]) -> bool:
    """Return True if the database has this identity and this place."""
    with connections[database()].cursor() as cursor:
        cursor.execute(
            f"SELECT 1 FROM streams_loghead WHERE id = 1 AND identity = %s AND {PLACE} = %s",  # noqa: S608
            expected,
        )
        return cursor.fetchone() is not None


def store(
    columns: Mapping[str, list[Any]], expected: Sequence[str], *, after_id: int, limit: int
) -> tuple[list[tuple[int, Any]], Outcome, dict[int, int | None]]:
    """Insert messages and commit. Number what waits, at most `limit` messages at a time, these messages included.

    `columns`: the values of each of COLUMNS. Returns (id, created_at) of the messages in their order, and
    {id: position} of those that have one. A message has none if another process held the lock for longer than
    PATIENCE_SECONDS, or if many others waited.

    After an OperationalError it is unknown whether they are stored: the procedure numbers after it has committed.
    """
    users = [None if user is None else str(user) for user in columns["published_by_id"]]
    arrays = [users if name == "published_by_id" else columns[name] for name in COLUMNS]
    ids, times, outcome, found = _call([*expected, after_id, limit, PATIENCE_SECONDS, *arrays, []])
    return list(zip(ids, times, strict=True)), outcome, found | outcome.numbered


def number(
    expected: Sequence[str], *, after_id: int, limit: int, wanted: Collection[int], wait: bool
) -> tuple[Outcome, dict[int, int | None]]:
    """Number what waits, at most `limit` messages at a time, unless another process has the lock.

    Also returns {id: position} of the numbered messages, and of the messages among `wanted` that are in the log; if
    `wait`, after waiting for these for up to PATIENCE_SECONDS.
    """
    nothing: list[object] = [[]] * len(COLUMNS)
    patience = PATIENCE_SECONDS if wait else 0
    _, _, outcome, found = _call([*expected, after_id, limit, patience, *nothing, list(wanted)])
    return outcome, found | outcome.numbered


def _call(arguments: Sequence[Any]) -> tuple[list[int], list[Any], Outcome, dict[int, int | None]]:
    with connections[database()].cursor() as cursor:
        cursor.execute(_CALL, arguments)
        [(new, times, *arrays, must_look)] = cursor.fetchall()
    numbered_ids, numbered_positions, found_ids, found_positions = (array or [] for array in arrays)
    numbered = dict(zip(numbered_ids, numbered_positions, strict=True))
    if numbered:
        known.note_numbered(max(numbered))
    found = dict(zip(found_ids, found_positions, strict=True))
    return new or [], times or [], Outcome(numbered, must_look), found
