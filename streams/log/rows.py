"""Rows of the log's table: made from new messages, and inserted by SQL.

The ORM's bulk_create() takes several times as long as the database, and does not read back `created_at`, which the
database sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connections

from streams.events import NewMessage
from streams.models import Message
from streams.threads import database

# Those of a message as it is published.
COLUMNS = ("channel", "event", "data", "size", "published_by_id", "idempotency_key")
_COLUMNS = ("id", "position", *COLUMNS)

# How many rows one INSERT takes, if the database does not allow fewer.
INSERT_ROWS = 500


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
        )
        if message.published_by is not None:
            row.published_by = message.published_by
            if row.published_by_id is None:
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
            names = _names(batch)
            values = ", ".join([f"({', '.join(['%s'] * len(names))})"] * len(batch))
            cursor.execute(
                f"INSERT INTO streams_message ({', '.join(names)}) VALUES {values} RETURNING id, created_at",  # noqa: S608
                [value for row in batch for value in parameters(row, names, connection)],
            )
            fill(batch, cursor.fetchall())


def parameters(row: Message, names: Sequence[str], connection: Any) -> list[Any]:
    """Return the row's values of these columns, for an INSERT."""
    values = [getattr(row, name) for name in names]
    if row.published_by_id is not None:  # it can be of a type that not every database has, such as a UUID
        by_whom = Message._meta.get_field("published_by")
        values[names.index("published_by_id")] = by_whom.get_db_prep_save(row.published_by_id, connection)
    return values


def fill(rows: Sequence[Message], returned: Sequence[tuple[Any, ...]]) -> None:
    """Give inserted rows the ids and times that the database returned."""
    alias = database()
    converters = _converters(alias)
    # By their ids, which rise in the order of the INSERT; no database promises the order of what it returns.
    for row, (pk, at) in zip(sorted(rows, key=lambda row: row.pk or 0), sorted(returned), strict=True):
        for convert in converters:
            at = convert(at, None, connections[alias])
        row.pk, row.created_at = pk, at
        row._state.adding, row._state.db = False, alias


def _converters(alias: str) -> list[Any]:
    """Return the functions that make a Python value of a date as the database returns it."""
    if connections[alias].vendor == "postgresql":
        return []
    created: Any = Message._meta.get_field("created_at")
    return connections[alias].ops.get_db_converters(created.get_col("streams_message"))


def _names(rows: Sequence[Message]) -> list[str]:
    """Return the columns to insert: the id and the position only if the rows have them already."""
    left_out = {name for name in ("id", "position") if getattr(rows[0], name) is None}
    return [name for name in _COLUMNS if name not in left_out]


def _batches(rows: Sequence[Message], connection: Any) -> Iterator[Sequence[Message]]:
    limit = connection.features.max_query_params
    size = min(INSERT_ROWS, limit // len(_COLUMNS)) if limit else INSERT_ROWS
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
