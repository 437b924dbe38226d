"""Publish and number on PostgreSQL in one round trip, by a procedure that a migration has created.

With a trip for each statement, a publisher would hold the lock while its process waits for the processor and for the
network; and each process would have to ask again and again whether another one has given its positions.

The lock is only taken if the database is known: `known` is the identity and the place that epochs.check() has found to
be right. They are compared in the same statement, so that an older copy of the log gives no position before its epoch
has started.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from django.db import connections

from streams.log.postgresql import PLACE
from streams.log.rows import COLUMNS, fill, parameters
from streams.models import Message
from streams.threads import database

# For how long a call waits on the server for positions that another process gives.
PATIENCE_SECONDS = 0.25

_CALL = """
    CALL streams_publish(%s, %s, %s, %s, %s, %s::text[], %s::text[], %s::text[], %s::int[], %s::text[], %s::text[],
        %s::bigint[], NULL, NULL, NULL, NULL, NULL, NULL, NULL)
"""


class Outcome(NamedTuple):
    """What a process has done under the lock."""

    numbered: dict[int, int]  # {id: position}, in order
    must_look: bool  # others can have left messages to this process: it held the lock in its last transaction


def is_possible() -> bool:
    """Return True if the database has the procedure, and the role may call it."""
    with connections[database()].cursor() as cursor:
        cursor.execute("SELECT has_function_privilege(to_regproc('streams_publish'), 'EXECUTE')")
        return bool(cursor.fetchone()[0])


def is_known(known: Sequence[str]) -> bool:
    """Return True if the database is the one that was known."""
    with connections[database()].cursor() as cursor:
        cursor.execute(
            f"SELECT 1 FROM streams_loghead WHERE id = 1 AND identity = %s AND {PLACE} = %s",  # noqa: S608
            known,
        )
        return cursor.fetchone() is not None


def store(rows: Sequence[Message], known: Sequence[str], *, after_id: int, limit: int) -> Outcome:
    """Insert rows and commit. Number what waits, at most `limit` messages at a time, the rows included.

    A row gets no position if another process has the lock for longer than PATIENCE_SECONDS, or if many others wait.

    After an OperationalError it is unknown whether the rows are stored: the procedure numbers after it has committed.
    """
    connection = connections[database()]
    columns = zip(*(parameters(row, COLUMNS, connection) for row in rows), strict=True)
    arrays = dict(zip(COLUMNS, map(list, columns), strict=True))
    arrays["published_by_id"] = [None if user is None else str(user) for user in arrays["published_by_id"]]
    ids, times, outcome, found = _call([*known, after_id, limit, PATIENCE_SECONDS, *arrays.values(), []])
    fill(rows, list(zip(ids, times, strict=True)))
    positions = found | outcome.numbered
    for row in rows:
        row.position = positions.get(row.pk)
    return outcome


def number(
    known: Sequence[str], *, after_id: int, limit: int, wanted: Collection[int], wait: bool
) -> tuple[Outcome, dict[int, int | None]]:
    """Number what waits, at most `limit` messages at a time, unless another process has the lock.

    Also returns {id: position} of what was numbered, and of those messages among `wanted` that are in the log; if
    `wait`, after waiting for these for up to PATIENCE_SECONDS.
    """
    nothing: list[object] = [[]] * len(COLUMNS)
    patience = PATIENCE_SECONDS if wait else 0
    _, _, outcome, found = _call([*known, after_id, limit, patience, *nothing, list(wanted)])
    return outcome, found | outcome.numbered


def _call(arguments: Sequence[Any]) -> tuple[list[int], list[Any], Outcome, dict[int, int | None]]:
    with connections[database()].cursor() as cursor:
        cursor.execute(_CALL, arguments)
        [(new, times, *arrays, must_look)] = cursor.fetchall()
    numbered_ids, numbered_positions, found_ids, found_positions = (array or [] for array in arrays)
    numbered = dict(zip(numbered_ids, numbered_positions, strict=True))
    found = dict(zip(found_ids, found_positions, strict=True))
    return new or [], times or [], Outcome(numbered, must_look), found
