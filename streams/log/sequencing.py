"""Sequence: give positions to messages, under the lock of LogHead's one row.

Positions follow commits, without holes, because only a transaction that holds the lock gives them. A publisher on
PostgreSQL never waits for the lock. It tries it, and leaves its committed messages to the holder if the lock is taken.
So a process that has held the lock looks once more *after* the commit that released it. docs/internals/log.md has the
reasons and the steps; tests/log/model explores every interleaving of them, with a crash at each.

`publish()` outside a transaction waits until its messages have positions. Inside the caller's transaction, it does not
wait after the commit. SQLite has one write lock for everything, so that there is nothing to try, and no holder that
would have to look again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from django.db import Error, InterfaceError, OperationalError, connections, transaction

from streams import policies
from streams.log import epochs, known, low_water, one_trip, postgresql, sqlite
from streams.log.one_trip import Outcome
from streams.log.transactions import own_transaction
from streams.models import LogHead, Message
from streams.notifiers import Notice, get_notifier
from streams.private.django import is_nested
from streams.protocol.sse import StoredEvent
from streams.runtime import failures
from streams.runtime.executor import database, timeout_seconds
from streams.telemetry import recorder

logger = logging.getLogger("streams.publishing")

# How many messages one transaction numbers: it bounds how long the lock is held.
STEP_MESSAGES = 1000

# For how long a publisher that has its positions numbers other publishers' messages. Polls number the rest.
LOOK_SECONDS = 0.5

# How long a publisher pauses before it asks again for positions that another process gives.
FIRST_PAUSE_SECONDS = 0.001
MAX_PAUSE_SECONDS = 0.02

# For how long publish() waits for the positions of committed messages; their `position` is None if it takes longer.
POSITION_SECONDS = 10.0


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
    given |= settle(missing, Outcome({}, must_look=is_postgresql or not given), wait=False)
    if not is_postgresql and (unknown := rows.keys() - given.keys()):
        found = _positions_of(unknown).items()
        given |= {pk: position for pk, position in found if position is not None}  # another process was quicker
    return given | {pk: row.position for pk, row in rows.items() if is_postgresql and row.position is not None}


@contextlib.contextmanager
def sequencing_transaction() -> Iterator[None]:
    """Open a transaction of the log's own that ends with sequence(). See own_transaction().

    See looking_after_failure() as well: while the lock is held, others leave their messages to this process.
    """
    with looking_after_failure(), own_transaction():
        yield


@contextlib.contextmanager
def looking_after_failure() -> Iterator[None]:
    """If the code within fails, give positions to the messages that others have left to this process in the meantime.

    Not if the database has failed: the connection may be lost, and another one can take long to open.
    """
    try:
        yield
    except (InterfaceError, OperationalError):
        raise
    except Exception:
        with contextlib.suppress(Error):
            sequence_waiting()
        raise


def sequence(limit: int | None = None) -> dict[int, int]:
    """Give positions to all messages that wait, those of the caller's transaction included. Waits for the head's lock.

    Call it as the last step of a sequencing_transaction(), if that needs the positions of its messages, and finish()
    after the commit: the lock is held until then. Returns {id: position}, in order.
    """
    connection = connections[database()]
    within = contextlib.nullcontext(connection) if connection.in_atomic_block else own_transaction()
    with within, connection.cursor() as cursor:
        locked = lock(cursor, wait=True)
        assert locked is not None
        return number(cursor, locked, after_id=0, limit=limit)


def finish(numbered: Mapping[int, int], rows: Iterable[Message]) -> None:
    """Notify of the positions that sequence() gave, and look for other messages. Call it after the commit."""
    notify(numbered, rows)
    settle({}, Outcome({}, must_look=connections[database()].vendor == "postgresql"), wait=False)


def sequence_waiting() -> None:
    """Give positions to committed messages that have none, unless another process is doing that.

    Makes the head's row if it is missing, and starts an epoch if one is due.
    """
    first = _try_step({}, wait=False, must_lock=True)
    notify(first.numbered, ())
    settle({}, first, wait=False)


def notify(positions: Mapping[int, int], rows: Iterable[Message]) -> None:
    """Send a notice of new positions, {id: position}, to the hubs of all processes. Call it after their commit.

    The notice carries the messages if `rows` holds all of them. A failure is logged, not raised: the log has the
    messages, and the hubs poll it.
    """
    if not positions:
        return
    committed_at = time.time()
    by_id = {row.pk: row for row in rows}
    traces = {positions[pk]: row.traceparent for pk, row in by_id.items() if row.traceparent and pk in positions}
    messages: tuple[StoredEvent, ...] = ()
    if by_id.keys() >= positions.keys():
        messages = tuple(
            StoredEvent(position, by_id[pk].channel, by_id[pk].event, by_id[pk].data)
            for pk, position in positions.items()
        )
    try:
        is_public = policies.are_known_to_be_open({message.channel for message in messages})
        first, last = min(positions.values()), max(positions.values())
        notice = Notice(first, last, messages, is_public=is_public, committed_at=committed_at, traces=traces)
        get_notifier().notify(notice)
    except Exception:
        recorder.current.notice_failed()
        failures.SENDING.record_failure(
            logger, "The notifier failed; subscribers will find the messages by polling the log."
        )
    else:
        failures.SENDING.recovered()


# --- Rounds -----------------------------------------------------------------------------------------------------------


def settle(missing: dict[int, Message], last: Outcome, *, wait: bool) -> dict[int, int]:
    """Give positions to committed messages until none waits, or until another process holds the lock.

    `missing` are this publisher's messages that have no position yet, by their ids; `wait` until they have. `last` is
    the result of this process's last transaction. Returns {id: position} of the messages that it numbered.
    """
    now = time.monotonic()
    # Less than a caller's deadline: the messages are stored, and must not seem to be lost.
    stop_looking, stop_waiting = now + LOOK_SECONDS, now + min(POSITION_SECONDS, (timeout_seconds() or 60) / 2)
    pause = FIRST_PAUSE_SECONDS
    given: dict[int, int] = {}
    was_empty = has_tried = False
    while last.must_look or missing:
        # The first step does not wait: publish() has just waited, and in another copy of the log no process numbers.
        last = _try_step(missing, wait=wait and has_tried)
        has_tried = True
        given |= last.numbered
        notify(last.numbered, _take_positions(missing, last.numbered))
        if last.must_look:
            if was_empty and not last.numbered:
                break  # messages that another transaction has locked wait, and cannot be numbered now
            if not (missing and wait) and time.monotonic() > stop_looking:
                break
            was_empty = not last.numbered
        elif missing:
            if not wait or time.monotonic() > stop_waiting:
                break
            time.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
    return given


def outcome_of(locked: Locked | None, numbered: dict[int, int], connection: Any) -> Outcome:
    """Return the outcome of a transaction that has committed, or of one of a test. `locked`: if it had the lock.

    On SQLite others leave it nothing: each publisher gets the lock itself.
    """
    return Outcome(numbered, must_look=locked is not None and connection.vendor == "postgresql")


def _take_positions(missing: dict[int, Message], numbered: Mapping[int, int]) -> list[Message]:
    """Give the rows among `missing` their new positions, and return them."""
    rows = [missing.pop(pk) for pk in numbered if pk in missing]
    for row in rows:
        row.position = numbered[row.pk]
    return rows


def _try_step(missing: dict[int, Message], *, wait: bool, must_lock: bool = False) -> Outcome:
    """Number one step of the messages that wait, in a transaction of its own, if the lock is free.

    Gives positions to the messages among `missing` that have got them from other processes, and takes these out.
    Without `must_lock`, the lock is not tried if no message waits.
    """
    after_id = low_water.LOW_WATER.mark_for_numbering()
    if (expected := known.for_one_trip()) is not None:
        outcome, found = one_trip.number(expected, after_id=after_id, limit=STEP_MESSAGES, wanted=missing, wait=wait)
        _take_found(missing, found, outcome.numbered)
        if outcome.numbered or outcome.must_look or not known.may_ask() or one_trip.is_known(expected):
            return outcome
    connection = connections[database()]
    is_postgresql = connection.vendor == "postgresql"
    numbered: dict[int, int] = {}
    locked: Locked | None = None
    if not is_postgresql or must_lock or _is_waiting():
        with own_transaction(with_limits=False), connection.cursor() as cursor:
            locked = lock(cursor, wait=False)
            if locked is not None:
                numbered = number(cursor, locked, after_id=after_id, limit=STEP_MESSAGES)
                if not numbered and not locked.is_new:
                    # An empty commit would flush the lock's own record to the disk.
                    transaction.set_rollback(True, using=connection.alias)
    if missing:
        _take_found(missing, _positions_of(missing), numbered)
    return Outcome(numbered, locked is not None if is_postgresql else len(numbered) == STEP_MESSAGES)


def _is_waiting() -> bool:
    """Return True if committed messages wait for positions."""
    with connections[database()].cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM streams_message WHERE position IS NULL AND id > %s)",
            [low_water.LOW_WATER.mark()],
        )
        return bool(cursor.fetchone()[0])


def _take_found(missing: dict[int, Message], found: Mapping[int, int | None], numbered: Mapping[int, int]) -> None:
    """Give the rows among `missing` the positions that were `found`, but for those that this process has `numbered`.

    A message that was not found has been deleted.
    """
    for pk in missing.keys() - found.keys():
        del missing[pk]
    positions = {pk: position for pk, position in found.items() if position is not None and pk not in numbered}
    _take_positions(missing, positions)


def _positions_of(ids: Collection[int]) -> dict[int, int | None]:
    """Return {id: position} of those messages that are in the log."""
    rows = Message.objects.using(database()).only("position").in_bulk(ids)
    return {pk: row.position for pk, row in rows.items()}


# --- Under the lock ---------------------------------------------------------------------------------------------------


class Locked(NamedTuple):
    """The head's row, locked until the transaction ends."""

    head: int
    epoch: int
    may_wait: bool | None  # messages wait for positions; None if only the next statement can see that
    is_new: bool  # this transaction has made the row, started the epoch, or stored the first identity


def lock(cursor: Any, *, wait: bool) -> Locked | None:
    """Take the head's lock; None if another transaction has it."""
    connection = cursor.db
    database_of = postgresql if connection.vendor == "postgresql" else sqlite
    take = database_of.wait_for_lock if wait else database_of.try_lock
    row = take(cursor)
    is_new = row is None and not LogHead.objects.using(connection.alias).exists()
    if is_new:
        epochs.create_head()
    if row is None and (is_new or wait):
        row = take(cursor)  # without a new row, another transaction has committed the first one in between
    if row is None:
        return None
    head, epoch = row.head, row.epoch
    if not known.is_compared(row.identity, row.place):
        head = epochs.check(cursor, row.head, row.epoch, row.identity)
        epoch += head != row.head
        # A new epoch can still be rolled back, and so can the first identity, and all work in an outer transaction.
        is_certain = row.place and head == row.head and row.identity and not is_nested(connection)
        compared = (row.identity, row.place) if is_certain else None
        known.remember(epoch, compared, has_procedure=compared is not None and one_trip.is_possible())
    return Locked(head, epoch, row.may_wait, is_new or head != row.head or not row.identity)


def number(cursor: Any, locked: Locked, *, after_id: int, limit: int | None) -> dict[int, int]:
    """Give positions to at most `limit` waiting messages with ids above `after_id`. Return {id: position}, in order."""
    database_of = postgresql if cursor.db.vendor == "postgresql" else sqlite
    numbered: dict[int, int] = database_of.number(cursor, locked.head, after_id, limit)
    if numbered:
        known.note_numbered(max(numbered), locked.epoch)
    return numbered
