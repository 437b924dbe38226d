"""Sequence: give positions to messages, under the lock of LogHead's one row.

A message's id would not do as its position: ids are given at the INSERT, and a transaction that commits late would put
its message where readers have already been. So a message gets its position in a transaction that holds the head's
lock: positions follow commits, without holes.

A commit takes as long as a flush to the disk, and PostgreSQL flushes many commits at once. But commits under one lock
cannot share a flush. So a publisher on PostgreSQL never waits for the lock; it tries it:

1. The lock is free. The publisher numbers the messages that wait, inserts its own with the next positions, and commits:
   one flush.
2. The lock is taken. The publisher inserts its messages without positions and commits, at the same time as others do.
   Then it tries the lock again. If it gets the lock, it numbers every message that waits. If not, the holder does that.
3. A process that has held the lock looks once more *after* the commit that released it. So a message that was committed
   before a failed try is always found: by the holder of that moment, or by the next one.
4. If a process dies before it has looked, the next publisher or the next poll of any hub finds the messages.

`publish()` outside a transaction waits until its messages have positions. Inside the caller's transaction, it does not
wait after the commit. A test explores every interleaving of these steps, with a crash at each.

SQLite has one write lock for everything, so that there is nothing to try, and no holder that would have to look again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.db import Error, OperationalError, connections, transaction

from streams import outages
from streams.events import NewMessage
from streams.exceptions import IdempotencyKeyInUse
from streams.log import epochs, low_water, postgresql, sqlite
from streams.log.appending import append
from streams.log.notices import notify
from streams.log.rows import insert, insert_unless_waiting, rows_for
from streams.log.transactions import LOCK_SECONDS, own_transaction
from streams.models import Message
from streams.threads import database

logger = logging.getLogger("streams.publishing")

# How many messages one transaction numbers: it bounds how long the lock is held.
STEP_MESSAGES = 1000

# Larger messages are inserted before the lock is taken, so that their size does not count while it is held.
QUICK_CHARACTERS = 65_536

# For how long a publisher that has its positions numbers other publishers' messages. Polls number what is left.
LOOK_SECONDS = 0.5

# For how long publish() waits for the positions of committed messages; their `position` is None if it takes longer.
POSITION_SECONDS = 10.0

# How long an insert waits for a transaction that has used the same idempotency key, if it must not wait for it.
KEY_SECONDS = 0.05

_FIRST_PAUSE_SECONDS = 0.001
_MAX_PAUSE_SECONDS = 0.02


def store(messages: Sequence[NewMessage], *, wait_for_keys: bool = True) -> list[Message]:
    """Store checked messages in a transaction of the log's own, give them positions, and notify. Blocks.

    Returns their rows. A row's position is None if it could not be had within POSITION_SECONDS; the message is stored.

    Raises IdempotencyKeyInUse if an open transaction has used one of the keys; if `wait_for_keys`, after LOCK_SECONDS.
    """
    if _is_inserted_first(messages):
        rows, numbered = _insert_first(messages, wait_for_keys=wait_for_keys)
    else:
        rows, numbered = _lock_first(messages)
    notify(numbered, rows)
    try:
        _finish({row.pk: row for row in rows if row.position is None}, held=bool(numbered), wait=True)
    except Error:
        # The messages are stored: their publisher must not fail, and publish them twice. A hub's poll numbers the rest.
        outages.report(logger, "Messages were stored, and could not be given their positions yet.")
    return rows


def sequence_after_commit(rows: Mapping[int, Message], *, age_seconds: float) -> dict[int, int]:
    """Give positions to the messages of a transaction that has just committed, unless another process is doing that.

    `rows` are the messages that it has inserted, by their ids; `age_seconds` is the time since the first of them.
    Returns {id: position}, as far as positions are known now.

    SQLite gives the ids that a savepoint has rolled back again: there, an id in `rows` can be another message's by now,
    so that only the ids are used, and the notice goes out without messages.
    """
    is_postgresql = connections[database()].vendor == "postgresql"
    missing = dict(rows) if is_postgresql else {}
    given: dict[int, int] = {}
    # Other processes' searches can have passed ids of that age: this one must number them, and waits for the lock.
    while age_seconds > low_water.DELAY_SECONDS / 2:
        with own_transaction():
            step = sequence(STEP_MESSAGES)
        notify(step, _take_positions(missing, step))
        given |= step
        if len(step) < STEP_MESSAGES:
            break
    given |= _finish(missing, held=bool(given), wait=False)
    if not is_postgresql and (unknown := rows.keys() - given.keys()):
        given |= _positions_of(unknown)  # another process was quicker
    return given | {pk: row.position for pk, row in rows.items() if is_postgresql and row.position is not None}


def sequence(limit: int | None = None) -> dict[int, int]:
    """Give positions to all messages that wait, those of the caller's transaction included. Waits for the head's lock.

    Call it as the last step of a transaction of the log's own that needs the positions of its messages, and finish()
    after the commit: the lock is held until then. Returns {id: position}, in order.
    """
    connection = connections[database()]
    within = contextlib.nullcontext() if connection.in_atomic_block else own_transaction()
    with within, connection.cursor() as cursor:
        locked = _lock(cursor, wait=True)
        assert locked is not None
        return _number(cursor, locked, after_id=0, limit=limit)


def finish(numbered: Mapping[int, int], rows: Iterable[Message]) -> None:
    """Notify of the positions that sequence() gave, and look for other messages. Call it after the commit."""
    notify(numbered, rows)
    _finish({}, held=True, wait=False)


def sequence_waiting() -> None:
    """Give positions to committed messages that have none, unless another process is doing that."""
    _finish({}, held=False, wait=False)


# --- The first transaction --------------------------------------------------------------------------------------------


def _is_inserted_first(messages: Sequence[NewMessage]) -> bool:
    """Return True if the messages must be inserted before the lock is taken.

    The insert of an idempotency key can wait for another transaction, and large messages take time to store.
    """
    return (
        len(messages) > STEP_MESSAGES
        or any(message.idempotency_key is not None for message in messages)
        or sum(len(message.data) for message in messages) > QUICK_CHARACTERS
    )


def _lock_first(messages: Sequence[NewMessage]) -> tuple[list[Message], dict[int, int]]:
    """Insert messages with their positions if the lock is free, and without them if it is taken."""
    connection = connections[database()]
    rows = rows_for(messages)
    with own_transaction(with_limits=False), connection.cursor() as cursor:
        locked = _lock(cursor, wait=False)
        if locked is None:
            insert(rows)
            return rows, {}
        numbered = _insert_numbered(cursor, rows, locked)
    return rows, numbered


def _insert_numbered(cursor: Any, rows: list[Message], locked: _Locked) -> dict[int, int]:
    """Insert rows under the lock, after the messages that wait. Without positions, if too many wait for one step."""
    after_id = low_water.LOW_WATER.mark()
    earlier: dict[int, int] = {}
    head = locked.head
    _give(rows, head)
    is_inserted = locked.may_wait is None and insert_unless_waiting(cursor, rows, head + len(rows), after_id)
    if not is_inserted and locked.may_wait is not False:
        earlier = _number(cursor, locked, after_id=after_id, limit=STEP_MESSAGES)
        if len(earlier) == STEP_MESSAGES:
            for row in rows:
                row.position = None
            insert(rows)
            return earlier
        head = max(earlier.values(), default=head)
        _give(rows, head)
    if not is_inserted:
        insert(rows)
        cursor.execute("UPDATE streams_loghead SET head = %s WHERE id = 1", [head + len(rows)])
    low_water.LOW_WATER.record(max(row.pk for row in rows), locked.epoch)
    return earlier | {row.pk: row.position for row in rows if row.position is not None}


def _give(rows: Sequence[Message], head: int) -> None:
    for position, row in enumerate(rows, head + 1):
        row.position = position


def _insert_first(messages: Sequence[NewMessage], *, wait_for_keys: bool) -> tuple[list[Message], dict[int, int]]:
    """Insert messages without positions, then number them in the same transaction if the lock is free."""
    connection = connections[database()]
    numbered: dict[int, int] = {}
    with own_transaction(lock_seconds=LOCK_SECONDS if wait_for_keys else KEY_SECONDS):
        try:
            rows = append(messages)
        except OperationalError as error:
            if type(error.__cause__).__name__ != "LockNotAvailable":
                raise
            raise IdempotencyKeyInUse(
                "An idempotency key of these messages is being used by a transaction that is still open. Nothing was "
                "published: publish them again later."
            ) from error
        fresh = [row for row in rows if row.position is None]
        if fresh:
            with connection.cursor() as cursor:
                if (locked := _lock(cursor, wait=False)) is not None:
                    numbered = _number(cursor, locked, after_id=0, limit=STEP_MESSAGES)
    for row in fresh:
        row.position = numbered.get(row.pk)
    return rows, numbered


# --- The rounds after it ----------------------------------------------------------------------------------------------


def _finish(missing: dict[int, Message], *, held: bool, wait: bool) -> dict[int, int]:
    """Give positions to committed messages until none waits, or until another process holds the lock.

    `missing` are this publisher's messages that have no position yet, by their ids; `wait` until they have. `held` says
    that this process has held the lock, so that it must look for messages first. Returns what it has numbered.
    """
    is_postgresql = connections[database()].vendor == "postgresql"
    if held and not is_postgresql:
        # On SQLite each publisher gets the lock itself: others leave nothing, but one step may not have been enough.
        if not missing:
            return {}
        held = False
    now = time.monotonic()
    stop_looking, stop_waiting = now + LOOK_SECONDS, now + POSITION_SECONDS
    pause = _FIRST_PAUSE_SECONDS
    given: dict[int, int] = {}
    numbered: dict[int, int] | None = None
    while True:
        if held and not (_is_waiting() if is_postgresql else len(numbered or ()) == STEP_MESSAGES):
            _read_positions(missing)
            return given
        if held and not missing and is_postgresql and time.monotonic() > stop_looking:
            return given
        was_empty, numbered = numbered == {}, _try_step()
        held = numbered is not None
        if numbered:
            given |= numbered
            notify(numbered, _take_positions(missing, numbered) if is_postgresql else ())
        if held and not (was_empty and numbered == {}):  # messages that are locked wait, and cannot be numbered
            continue
        if not (missing and wait) or time.monotonic() > stop_waiting:
            return given
        time.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)
        _read_positions(missing)
        if not missing:
            return given


def _take_positions(missing: dict[int, Message], numbered: Mapping[int, int]) -> list[Message]:
    """Give the rows among `missing` their new positions, and return them."""
    rows = [missing.pop(pk) for pk in numbered if pk in missing]
    for row in rows:
        row.position = numbered[row.pk]
    return rows


def _try_step() -> dict[int, int] | None:
    """Number one step of the messages that wait, in a transaction of its own; None if the lock is taken."""
    connection = connections[database()]
    with own_transaction(with_limits=False), connection.cursor() as cursor:
        locked = _lock(cursor, wait=False)
        if locked is None:
            return None
        numbered = _number(cursor, locked, after_id=low_water.LOW_WATER.mark(), limit=STEP_MESSAGES)
        if not numbered and not locked.is_new:
            # An empty commit would flush the lock's own record to the disk.
            transaction.set_rollback(True, using=connection.alias)
    return numbered


def _is_waiting() -> bool:
    """Return True if committed messages wait for positions that another process left to this one."""
    with connections[database()].cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM streams_message WHERE position IS NULL AND id > %s)",
            [low_water.LOW_WATER.mark()],
        )
        return bool(cursor.fetchone()[0])


def _read_positions(missing: dict[int, Message]) -> None:
    """Take from `missing` the messages that have got positions from other processes."""
    _take_positions(missing, _positions_of(missing))


def _positions_of(ids: Collection[int]) -> dict[int, int]:
    """Return {id: position} of those messages that have one."""
    size = connections[database()].features.max_query_params or 10_000
    rows = Message.objects.using(database()).filter(position__isnull=False).values_list("pk", "position")
    wanted = list(ids)
    found: dict[int, int] = {}
    for start in range(0, len(wanted), size):
        found |= {pk: position for pk, position in rows.filter(pk__in=wanted[start : start + size]) if position}
    return found


# --- Under the lock ---------------------------------------------------------------------------------------------------


class _Locked(NamedTuple):
    """The head's row, locked until the transaction ends."""

    head: int
    epoch: int
    may_wait: bool | None  # messages wait for positions; None if only the next statement can see that
    is_new: bool  # this transaction has made the row, or started the epoch


def _lock(cursor: Any, *, wait: bool) -> _Locked | None:
    """Take the head's lock; None if another transaction has it."""
    database_of = postgresql if connections[database()].vendor == "postgresql" else sqlite
    take = database_of.wait_for_lock if wait else database_of.try_lock
    found = take(cursor)
    if is_new := found is True:
        epochs.create_head()
        found = take(cursor)
    if isinstance(found, bool):
        return None
    before, epoch, *identities, may_wait = found
    head = epochs.check(cursor, before, epoch, *identities)
    is_new_epoch = head != before
    return _Locked(head, epoch + is_new_epoch, may_wait, is_new or is_new_epoch)


def _number(cursor: Any, locked: _Locked, *, after_id: int, limit: int | None) -> dict[int, int]:
    number = postgresql.number if connections[database()].vendor == "postgresql" else sqlite.number
    numbered = number(cursor, locked.head, after_id, limit)
    if numbered:
        low_water.LOW_WATER.record(max(numbered), locked.epoch)
    return numbered
