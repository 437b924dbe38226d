"""Rows of the log's table: made from new messages, and inserted by SQL.

The ORM's bulk_create() takes several times as long as the database, and does not read back `created_at`, which the
database sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from django.db import connections

from streams.events import NewMessage
from streams.models import Message
from streams.threads import database

_COLUMNS = ("id", "position", "channel", "event", "data", "size", "published_by_id", "idempotency_key")

# How many rows one INSERT takes, if the database does not allow fewer.
_INSERT_ROWS = 500


def rows_for(messages: Sequence[NewMessage]) -> list[Message]:
    """Make the rows of checked messages; they are not in the database yet."""
    rows = []
    for message in messages:
        row = Message(
            channel=message.channel,
            event=message.event,
            data=message.data,
            size=len(message.data.encode()),
            idempotency_key=message.idempotency_key,
            published_by=message.published_by,
        )
        if message.published_by is not None and row.published_by_id is None:
            raise ValueError(
                f"`published_by` must be a saved user; got {message.published_by!r}, which has no primary key."
            )
        row.is_new = True
        rows.append(row)
    return rows


def insert(rows: Sequence[Message]) -> None:
    """Insert rows, with the ids and positions that they have. Sets their ids and times."""
    connection = connections[database()]
    with connection.cursor() as cursor:
        for batch in _batches(rows, connection):
            values, parameters = values_of(batch, connection)
            names = _names(batch)
            cursor.execute(
                f"INSERT INTO streams_message ({', '.join(names)}) VALUES {values} RETURNING id, created_at",  # noqa: S608
                parameters,
            )
            take(batch, cursor.fetchall())


def insert_unless_waiting(cursor: Any, rows: Sequence[Message], newest: int, after_id: int) -> bool:
    """Insert rows that have positions and move the head to `newest`, in one statement of PostgreSQL's.

    Return False, and do nothing, if committed messages wait for positions: they come first. `after_id` is the low-water
    mark of that search.
    """
    connection = connections[database()]
    values, parameters = values_of(rows, connection, with_types=True)
    names = _names(rows)
    cursor.execute(
        f"""
        WITH waiting AS MATERIALIZED (
            SELECT EXISTS (SELECT 1 FROM streams_message WHERE position IS NULL AND id > %s) AS found
        ), moved AS (
            UPDATE streams_loghead SET head = %s WHERE id = 1 AND NOT (SELECT found FROM waiting)
        )
        INSERT INTO streams_message ({", ".join(names)})
        SELECT * FROM (VALUES {values}) AS new WHERE NOT (SELECT found FROM waiting)
        RETURNING id, created_at
        """,  # noqa: S608
        [after_id, newest, *parameters],
    )
    returned = cursor.fetchall()
    if not returned:
        return False
    take(rows, returned)
    return True


def values_of(rows: Sequence[Message], connection: Any, *, with_types: bool = False) -> tuple[str, list[Any]]:
    """Return the text of a VALUES list for `rows`, and its parameters.

    `with_types` casts the first row's values: PostgreSQL takes a NULL in a VALUES list that stands alone for a text.
    """
    names = _names(rows)
    parameters: list[Any] = []
    for row in rows:
        parameters += [getattr(row, name) for name in names]
        if row.published_by_id is not None:  # a UUID, maybe, which not every database has
            by_whom = Message._meta.get_field("published_by")
            parameters[names.index("published_by_id") - len(names)] = by_whom.get_db_prep_save(
                row.published_by_id, connection
            )
    plain = f"({', '.join(['%s'] * len(names))})"
    if not with_types:
        return ", ".join([plain] * len(rows)), parameters
    types = _types(connection.alias)
    typed = f"({', '.join(f'%s::{types[name]}' for name in names)})"
    return ", ".join([typed, *[plain] * (len(rows) - 1)]), parameters


@cache
def _types(alias: str) -> dict[str, str | None]:
    """Return the type of each column in the database."""
    connection = connections[alias]
    return {name: Message._meta.get_field(name.removesuffix("_id")).db_type(connection) for name in _COLUMNS}


def take(rows: Sequence[Message], returned: Sequence[tuple[Any, ...]]) -> None:
    """Give inserted rows the ids and times that the database returned."""
    alias = database()
    connection = connections[alias]
    created = Message._meta.get_field("created_at")
    converters = connection.ops.get_db_converters(created.get_col("streams_message"))
    # By their ids, which rise in the order of the INSERT; no database promises the order of what it returns.
    for row, (pk, at) in zip(sorted(rows, key=lambda row: row.pk or 0), sorted(returned), strict=True):
        for convert in converters:
            at = convert(at, None, connection)
        row.pk, row.created_at = pk, at
        row._state.adding, row._state.db = False, alias


def _names(rows: Sequence[Message]) -> list[str]:
    """Return the columns to insert: the id and the position only if the rows have them already."""
    left_out = {name for name in ("id", "position") if getattr(rows[0], name) is None}
    return [name for name in _COLUMNS if name not in left_out]


def _batches(rows: Sequence[Message], connection: Any) -> Iterator[Sequence[Message]]:
    limit = connection.features.max_query_params
    size = min(_INSERT_ROWS, limit // len(_COLUMNS)) if limit else _INSERT_ROWS
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
