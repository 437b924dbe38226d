"""Store messages in a transaction of the log's own: the way of every publish() outside the caller's transaction.

sequencing.py describes the steps. Messages are inserted with their positions if the head's lock is free, and without
them if it is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from django.db import OperationalError, connections

from streams import outages
from streams.events import NewMessage
from streams.exceptions import IdempotencyKeyInUse
from streams.log import known, low_water, one_trip
from streams.log.appending import append
from streams.log.notices import notify
from streams.log.one_trip import Outcome
from streams.log.rows import insert, rows_for
from streams.log.sequencing import STEP_MESSAGES, Locked, held, lock, looking_after_failure, number, settle
from streams.log.transactions import LOCK_SECONDS, own_transaction
from streams.models import Message
from streams.runtime import test_run
from streams.threads import database

logger = logging.getLogger("streams.publishing")

# Larger messages are inserted before the lock is taken, so that their size does not count while it is held.
QUICK_CHARACTERS = 65_536

# How long an insert waits for a transaction that has used the same idempotency key, if it must not wait for it.
KEY_SECONDS = 0.05


def store(messages: Sequence[NewMessage], *, wait_for_keys: bool = True) -> list[Message]:
    """Store checked messages in a transaction of the log's own, give them positions, and notify. Blocks.

    Returns their rows. A row's position is None if it could not be had within POSITION_SECONDS; the message is stored.

    Raises IdempotencyKeyInUse if an open transaction has used one of the keys; if `wait_for_keys`, after LOCK_SECONDS.
    """
    with looking_after_failure():
        if _is_inserted_first(messages):
            rows, outcome = _insert_first(messages, wait_for_keys=wait_for_keys)
        else:
            rows, outcome = _lock_first(messages)
    outages.DISK.works()
    try:
        notify(outcome.numbered, rows)
        settle({row.pk: row for row in rows if row.position is None}, outcome, wait=True)
    except Exception:
        # The messages are stored: their publisher must not fail, and publish them twice. A hub's poll numbers the rest.
        outages.report(logger, "Messages were stored, and could not be given their positions yet.")
    return rows


def _is_inserted_first(messages: Sequence[NewMessage]) -> bool:
    """Return True if the messages must be inserted before the lock is taken.

    The insert of an idempotency key can wait for another transaction, and large messages take time to store.
    """
    return (
        len(messages) > STEP_MESSAGES
        or any(message.idempotency_key is not None for message in messages)
        or sum(len(message.data) for message in messages) > QUICK_CHARACTERS
    )


def _lock_first(messages: Sequence[NewMessage]) -> tuple[list[Message], Outcome]:
    """Insert messages with their positions if the lock is free, and without them if it is taken. Return their rows."""
    rows = rows_for(messages)
    if (expected := known.for_one_trip()) is not None:
        mark = low_water.LOW_WATER.mark()
        outcome = one_trip.store(rows, expected, after_id=mark, limit=STEP_MESSAGES)
        if outcome.numbered:
            known.note_numbered(max(outcome.numbered))
        return rows, outcome
    # Rows that this thread commits beside a test's transaction would outlive the test. So it waits for the lock, which
    # that transaction holds once the test has published, and fails.
    beside_test = test_run.strategy().is_beside_test()
    with own_transaction(with_limits=beside_test), connections[database()].cursor() as cursor:
        locked = lock(cursor, wait=beside_test)
        if locked is None:
            insert(rows)
            return rows, Outcome({}, must_look=False)
        numbered = _insert_numbered(cursor, rows, locked)
    return rows, held(numbered)


def _insert_numbered(cursor: Any, rows: list[Message], locked: Locked) -> dict[int, int]:
    """Insert rows under the lock, after the messages that wait. Without positions, if too many wait for one step."""
    earlier: dict[int, int] = {}
    if locked.may_wait is not False:
        earlier = number(cursor, locked, after_id=0, limit=STEP_MESSAGES)
    if len(earlier) == STEP_MESSAGES:
        insert(rows)
        return earlier
    head = max(earlier.values(), default=locked.head)
    for position, row in enumerate(rows, head + 1):
        row.position = position
    insert(rows)
    cursor.execute("UPDATE streams_loghead SET head = %s WHERE id = 1", [head + len(rows)])
    known.note_numbered(max(row.pk for row in rows), locked.epoch)
    return earlier | {row.pk: row.position for row in rows if row.position is not None}


def _insert_first(messages: Sequence[NewMessage], *, wait_for_keys: bool) -> tuple[list[Message], Outcome]:
    """Insert messages without positions, then number them in the same transaction if the lock is free."""
    connection = connections[database()]
    numbered: dict[int, int] = {}
    locked: Locked | None = None
    has_keys = any(message.idempotency_key is not None for message in messages)
    with own_transaction(lock_seconds=KEY_SECONDS if has_keys and not wait_for_keys else LOCK_SECONDS):
        try:
            rows = append(messages)
        except OperationalError as error:
            if not has_keys or type(error.__cause__).__name__ != "LockNotAvailable":
                raise
            raise IdempotencyKeyInUse(
                "An idempotency key of these messages is being used by a transaction that is still open. Nothing was "
                "published: publish them again later."
            ) from error
        fresh = [row for row in rows if row.position is None]
        if fresh:
            with connection.cursor() as cursor:
                if (locked := lock(cursor, wait=test_run.strategy().is_beside_test())) is not None:
                    numbered = number(cursor, locked, after_id=0, limit=STEP_MESSAGES)
    for row in fresh:
        row.position = numbered.get(row.pk)
    return rows, Outcome({}, must_look=False) if locked is None else held(numbered)
