"""Append: insert messages without positions, in whatever transaction the caller has open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from django.db import IntegrityError, connections, transaction
from django.db.models import F

from streams.events import NewMessage
from streams.exceptions import IdempotencyKeyReused
from streams.log.rows import insert, rows_for
from streams.models import LogHead, Message
from streams.threads import database


def append(messages: Sequence[NewMessage]) -> list[Message]:
    """Insert checked messages without positions, on the calling thread's connection. Return their rows, in order.

    If a message's idempotency key was used on its channel before, the result holds the first message with that key, and
    nothing is inserted. This waits for another transaction that is inserting the same key. Inserted rows have `is_new`
    set to True.
    """
    if not messages:
        return []
    if not any(message.idempotency_key for message in messages):
        return _insert(messages)
    lock_sqlite()
    attempts = 5
    while True:
        attempts -= 1
        found = _by_key(messages)
        # Each key once, the first message that has it; those without a key are all different.
        fresh: dict[tuple[str, str] | int, NewMessage] = {}
        for index, message in enumerate(messages):
            if (key := _key(message) or index) not in found:
                fresh.setdefault(key, message)
        try:
            with transaction.atomic(using=database()):
                found |= zip(fresh, _insert(list(fresh.values())), strict=True)
                _check_keys(messages, found)
        except IntegrityError:
            # Another transaction has just committed one of the keys; the next look finds it. Not so where the caller
            # reads from an old snapshot (REPEATABLE READ): then there is nothing to be returned.
            if not attempts:
                raise
        else:
            return [found[_key(message) or index] for index, message in enumerate(messages)]


def _check_keys(messages: Sequence[NewMessage], found: Mapping[tuple[str, str] | int | None, Message]) -> None:
    """Raise IdempotencyKeyReused where a strict key stands for another message, of the log or of the same batch."""
    for message in messages:
        if message.strict_key and (key := _key(message)) is not None:
            first = found[key]
            if (first.event, first.data) != (message.event, message.data):
                raise IdempotencyKeyReused(
                    f"The idempotency key {message.idempotency_key!r} was used on {message.channel} for a message with "
                    "other data or another type. Nothing was published: send what was sent first, or take a new key."
                )


def lock_sqlite() -> None:
    """Take SQLite's write lock, where a transaction is about to read before it writes.

    In Django's default mode a transaction takes it with its first write, and fails there if somebody else has written
    since its first read.
    """
    connection = connections[database()]
    if connection.vendor == "sqlite" and connection.in_atomic_block:
        LogHead.objects.using(connection.alias).filter(id=LogHead.ROW).update(head=F("head"))


def _insert(messages: Sequence[NewMessage]) -> list[Message]:
    rows = rows_for(messages)
    keyed = [row for row in rows if row.idempotency_key is not None]
    if len(keyed) < 2 or connections[database()].vendor != "postgresql":
        insert(rows)
        return rows
    # Two transactions that insert the same keys in different orders would wait for one another. All insert in the order
    # of the keys instead. The ids are drawn before, because positions follow them: they keep the batch's order.
    with connections[database()].cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence('streams_message', 'id')) FROM generate_series(1, %s)", [len(rows)]
        )
        for row, (pk,) in zip(rows, sorted(cursor.fetchall()), strict=True):
            row.pk = pk
    insert(sorted(rows, key=lambda row: (row.channel, row.idempotency_key or "")))
    return rows


def _key(message: NewMessage | Message) -> tuple[str, str] | None:
    return None if message.idempotency_key is None else (message.channel, message.idempotency_key)


def _by_key(messages: Sequence[NewMessage]) -> dict[tuple[str, str] | int | None, Message]:
    wanted: dict[str, list[str]] = {}
    for channel, key in filter(None, map(_key, messages)):
        wanted.setdefault(channel, []).append(key)
    found: dict[tuple[str, str] | int | None, Message] = {}
    for channel, keys in wanted.items():
        for start in range(0, len(keys), 500):  # databases bound how many values a query may have
            rows = Message.objects.using(database()).filter(channel=channel)
            found |= {_key(row): row for row in rows.filter(idempotency_key__in=keys[start : start + 500])}
    return found
