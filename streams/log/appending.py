"""Append messages to the log: in the caller's transaction, or in one of the log's own.

`append()` inserts messages without positions, in the transaction that the caller has open. `store()` is for all other
publishers: it commits the messages with positions if the head's lock is free, and without them if it is taken. See
sequencing.py for the steps.

Rows are inserted by SQL. The ORM's bulk_create() takes several times as long as the database, and does not read back
`created_at`, which the database sets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import IntegrityError, OperationalError, connections, transaction
from django.db.models import F

from streams.exceptions import IdempotencyKeyInUse, IdempotencyKeyReused
from streams.log import known, low_water, one_trip
from streams.log.one_trip import COLUMNS, Outcome
from streams.log.sequencing import (
    STEP_MESSAGES,
    Locked,
    lock,
    looking_after_failure,
    notify,
    number,
    outcome_of,
    settle,
)
from streams.log.transactions import LOCK_SECONDS, own_transaction
from streams.models import LogHead, Message
from streams.protocol.events import NewMessage
from streams.runtime import clock, failures, test_run
from streams.runtime.executor import database

logger = logging.getLogger("streams.publishing")

# Larger messages are inserted before the lock is taken, so that the lock is not held for longer because of their size.
QUICK_CHARACTERS = 65_536

# How long an insert waits for a transaction that has used the same idempotency key, if `wait_for_keys` is False.
KEY_SECONDS = 0.05

# How many rows one INSERT takes, if the database does not allow fewer.
INSERT_ROWS = 500


def store(messages: Sequence[NewMessage], *, wait_for_keys: bool = True) -> list[Message]:
    """Store checked messages in a transaction of the log's own, give them positions, and notify. Blocks.

    Returns their rows. A row's position is None if another process had not given it within POSITION_SECONDS; the
    message is stored.

    Raises IdempotencyKeyInUse if an open transaction has used one of the keys; if `wait_for_keys`, after LOCK_SECONDS.
    """
    # An insert with an idempotency key can wait for another transaction, and large messages take time to store.
    must_insert_first = (
        len(messages) > STEP_MESSAGES
        or any(message.idempotency_key is not None for message in messages)
        or sum(len(message.data) for message in messages) > QUICK_CHARACTERS
    )
    with looking_after_failure():
        if must_insert_first:
            rows, outcome = _insert_first(messages, wait_for_keys=wait_for_keys)
        elif (expected := known.for_one_trip()) is not None:
            rows, outcome = _insert_in_one_trip(messages, expected)
        else:
            rows, outcome = _lock_first(messages)
    failures.DISK.recovered()
    try:
        notify(outcome.numbered, rows)
        settle({row.pk: row for row in rows if row.position is None}, outcome, wait=True)
    except Exception:
        # The messages are stored. If their publisher got an error, it would publish them again. A hub's poll numbers
        # the rest.
        failures.report(logger, "Messages were stored, and could not be given their positions yet.")
    return rows


def _lock_first(messages: Sequence[NewMessage]) -> tuple[list[Message], Outcome]:
    """Insert messages with their positions if the lock is free, and without them if it is taken. Return their rows."""
    rows = _rows_for(messages)
    # Rows that this thread commits beside a test's transaction would outlive the test. So it waits for the lock, which
    # that transaction holds once the test has published, and fails.
    beside_test = test_run.strategy().is_beside_test()
    numbered: dict[int, int] = {}
    with own_transaction(with_limits=beside_test) as connection, connection.cursor() as cursor:
        locked = lock(cursor, wait=beside_test)
        if locked is not None and locked.may_wait is not False:
            numbered = number(cursor, locked, after_id=0, limit=STEP_MESSAGES)
        if locked is None or len(numbered) == STEP_MESSAGES:  # more can wait then, and they come before these rows
            _insert(rows, connection)
            return rows, outcome_of(locked, numbered, connection)
        head = max(numbered.values(), default=locked.head)
        for position, row in enumerate(rows, head + 1):
            row.position = position
        _insert(rows, connection)
        cursor.execute("UPDATE streams_loghead SET head = %s WHERE id = 1", [head + len(rows)])
        known.note_numbered(max(row.pk for row in rows), locked.epoch)
    numbered |= {row.pk: row.position for row in rows if row.position is not None}
    return rows, outcome_of(locked, numbered, connection)


def _insert_in_one_trip(messages: Sequence[NewMessage], expected: Sequence[str]) -> tuple[list[Message], Outcome]:
    """Insert messages by the procedure of one_trip.py. They get positions unless the lock is taken for long."""
    connection = connections[database()]
    rows = _rows_for(messages)
    columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    columns["published_by_id"] = [_user_value(value, connection) for value in columns["published_by_id"]]
    after_id = low_water.LOW_WATER.mark()
    inserted, outcome, positions = one_trip.store(columns, expected, after_id=after_id, limit=STEP_MESSAGES)
    for row, (pk, created_at) in zip(rows, inserted, strict=True):
        row.pk, row.created_at, row.position = pk, created_at, positions.get(pk)
        row._state.adding, row._state.db = False, connection.alias
    return rows, outcome


def _insert_first(messages: Sequence[NewMessage], *, wait_for_keys: bool) -> tuple[list[Message], Outcome]:
    """Insert messages without positions, then number them in the same transaction if the lock is free."""
    numbered: dict[int, int] = {}
    locked: Locked | None = None
    has_keys = any(message.idempotency_key is not None for message in messages)
    lock_seconds = KEY_SECONDS if has_keys and not wait_for_keys else LOCK_SECONDS
    with own_transaction(lock_seconds=lock_seconds) as connection, connection.cursor() as cursor:
        try:
            rows = append(messages)
        except OperationalError as error:
            if not has_keys or type(error.__cause__).__name__ != "LockNotAvailable":
                raise
            raise IdempotencyKeyInUse(
                "An idempotency key of these messages is being used by a transaction that is still open. Nothing was "
                "published: publish them again later."
            ) from error
        if any(row.position is None for row in rows):
            locked = lock(cursor, wait=test_run.strategy().is_beside_test())
            if locked is not None:
                numbered = number(cursor, locked, after_id=0, limit=STEP_MESSAGES)
    for row in rows:
        if row.position is None:
            row.position = numbered.get(row.pk)
    return rows, outcome_of(locked, numbered, connection)


# --- Without positions, in the open transaction -----------------------------------------------------------------------


def append(messages: Sequence[NewMessage]) -> list[Message]:
    """Insert checked messages without positions, on the calling thread's connection. Return their rows, in order.

    If a message's idempotency key was used on its channel before, the result holds the first message with that key, and
    nothing is inserted. This waits for another transaction that is inserting the same key. Inserted rows have `is_new`
    set to True.
    """
    if not messages:
        return []
    if not any(message.idempotency_key for message in messages):
        return _insert_new(messages)
    lock_sqlite()
    attempts = 5
    while True:
        attempts -= 1
        found = _by_key(messages)
        # Each key once, the first message that has it; messages without a key are all different.
        fresh: dict[tuple[str, str] | int, NewMessage] = {}
        for index, message in enumerate(messages):
            if (key := _key(message) or index) not in found:
                fresh.setdefault(key, message)
        try:
            with transaction.atomic(using=database()):
                found |= zip(fresh, _insert_new(list(fresh.values())), strict=True)
                _check_keys(messages, found)
        except IntegrityError:
            # Another transaction has just committed one of the keys, and the next attempt finds it. It does not if the
            # caller reads from an old snapshot (REPEATABLE READ).
            if not attempts:
                raise
        else:
            return [found[_key(message) or index] for index, message in enumerate(messages)]


def _check_keys(messages: Sequence[NewMessage], found: Mapping[tuple[str, str] | int | None, Message]) -> None:
    """Raise IdempotencyKeyReused if a strict key was used for another message, in the log or in the same batch."""
    for message in messages:
        if message.strict_key and (key := _key(message)) is not None:
            first = found[key]
            if (first.event, first.data) != (message.event, message.data):
                raise IdempotencyKeyReused(
                    f"The idempotency key {message.idempotency_key!r} was used on {message.channel} for a message with "
                    "other data or another type. Nothing was published: send the first message again, or use a new key."
                )


def lock_sqlite() -> None:
    """Take SQLite's write lock in a transaction that is going to read before it writes.

    In Django's default mode a transaction takes it with its first write, and fails there if another connection has
    written since its first read.
    """
    connection = connections[database()]
    if connection.vendor == "sqlite" and connection.in_atomic_block:
        LogHead.objects.using(connection.alias).filter(id=LogHead.ROW).update(head=F("head"))


def _insert_new(messages: Sequence[NewMessage]) -> list[Message]:
    connection = connections[database()]
    rows = _rows_for(messages)
    keyed = [row for row in rows if row.idempotency_key is not None]
    if len(keyed) < 2 or connection.vendor != "postgresql":
        _insert(rows, connection)
        return rows
    # Two transactions that insert the same keys in different orders would wait for one another. All insert in the order
    # of the keys instead. The ids are drawn before, because positions follow them: they keep the batch's order.
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence('streams_message', 'id')) FROM generate_series(1, %s)", [len(rows)]
        )
        for row, (pk,) in zip(rows, sorted(cursor.fetchall()), strict=True):
            row.pk = pk
    _insert(sorted(rows, key=lambda row: (row.channel, row.idempotency_key or "")), connection)
    return rows


def _key(message: NewMessage | Message) -> tuple[str, str] | None:
    return None if message.idempotency_key is None else (message.channel, message.idempotency_key)


def _by_key(messages: Sequence[NewMessage]) -> dict[tuple[str, str] | int | None, Message]:
    wanted: dict[str, list[str]] = {}
    for channel, key in filter(None, map(_key, messages)):
        wanted.setdefault(channel, []).append(key)
    found: dict[tuple[str, str] | int | None, Message] = {}
    for channel, keys in wanted.items():
        for start in range(0, len(keys), 500):  # databases limit how many values a query can have
            rows = Message.objects.using(database()).filter(channel=channel)
            found |= {_key(row): row for row in rows.filter(idempotency_key__in=keys[start : start + 500])}
    return found


# --- Rows -------------------------------------------------------------------------------------------------------------


def _rows_for(messages: Sequence[NewMessage]) -> list[Message]:
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
        if message.traceparent:
            row.traceparent = message.traceparent
        rows.append(row)
    return rows


def _insert(rows: Sequence[Message], connection: Any) -> None:
    """Insert rows, with the ids and positions that they have. Sets their ids and times."""
    if not rows:
        return
    names = [*(name for name in ("id", "position") if getattr(rows[0], name) is not None), *COLUMNS]
    names.remove("published_by_id")
    created_at: Any = Message._meta.get_field("created_at")
    if clock.is_shifted():  # otherwise the database sets it
        names.append("created_at")
        moment = created_at.get_db_prep_save(clock.stored_now().value, connection)
    places = f"({', '.join(['%s'] * (len(names) + 1))})"
    limit = connection.features.max_query_params
    size = min(INSERT_ROWS, limit // (len(names) + 1)) if limit else INSERT_ROWS
    converters = connection.ops.get_db_converters(created_at.get_col("streams_message"))  # SQLite returns text
    with connection.cursor() as cursor:
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            values: list[Any] = []
            for row in batch:
                values += [moment if name == "created_at" else getattr(row, name) for name in names]
                values.append(_user_value(row.published_by_id, connection))
            cursor.execute(
                f"INSERT INTO streams_message ({', '.join(names)}, published_by_id) "  # noqa: S608
                f"VALUES {', '.join([places] * len(batch))} RETURNING id, created_at",
                values,
            )
            # Ids rise in the order of the INSERT, but no database promises the order of the rows that it returns.
            inserted = sorted(cursor.fetchall())
            for row, (pk, at) in zip(sorted(batch, key=lambda row: row.pk or 0), inserted, strict=True):
                for convert in converters:
                    at = convert(at, None, connection)
                row.pk, row.created_at = pk, at
                row._state.adding, row._state.db = False, connection.alias


def _user_value(key: Any, connection: Any) -> Any:
    """Return a user's primary key for an INSERT. Not every database has its type, which can be a UUID."""
    return None if key is None else Message._meta.get_field("published_by").get_db_prep_save(key, connection)
