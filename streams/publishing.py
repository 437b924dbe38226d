"""What callers use to append to the log: publish and its async and many-message forms.

Outside a transaction, publishers of one process that come at the same time share one (writer.py). Inside one, the
message belongs to the caller's transaction, and is sequenced after its commit. It never imports the hub: the two meet
at the log and the notifier.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, transaction

from streams import log, outages, threads
from streams.events import NewMessage, check
from streams.exceptions import IdempotencyKeyInUse
from streams.models import Message
from streams.private import django as django_internals
from streams.runtime import test_run
from streams.runtime.resets import per_process
from streams.writer import Writer

# For how long publish() waits for a transaction that has used the same idempotency key and is still open.
KEY_IN_USE_SECONDS = 30.0


def publish(
    channel: str,
    data: Any,
    *,
    event: str = "message",
    idempotency_key: str | None = None,
    published_by: Any = None,
) -> Message:
    """Append a message to a channel; it becomes an event once its transaction has committed.

    Args:
        channel: the channel's name, `A-Z a-z 0-9 . _ -`, 1 to 99 characters.
        data: a str goes out as it is, but for CR and CRLF, which become LF (the format cannot carry them). Anything
            else becomes JSON by DjangoJSONEncoder. At most MAX_MESSAGE_BYTES in UTF-8.
        event: the type that clients listen for, one line of at most 99 characters. `stream-…` is reserved. An
            EventSource has events of its own called `error` and `open`, so choose other names.
        idempotency_key: the same key on the same channel returns the first message and appends nothing.
        published_by: the user who published, for the record.

    Returns:
        The Message. Its `position`, the event's id, is None until the transaction has committed. Just after the commit
        it can still be None if another process is giving positions at that moment; refresh_from_db() reads it. Its
        `is_new` is False if it was found under its idempotency key.

    Raises:
        InvalidMessage: the message cannot be carried. Nothing was stored.
        IdempotencyKeyInUse: a transaction that has used the key is still open after 30 seconds. Nothing was stored.
        NotMigrated: the database lacks a table or a column, because `manage.py migrate` was not run.
        django.db.OperationalError: the database does not answer, or its disk is full.
        SynchronousOnlyOperation: called on a running event loop; await apublish() there.

    Works in any process that has the models: ASGI, WSGI, Celery, a shell. Inside `transaction.atomic()` the message is
    part of that transaction: rolled back, it never was.
    """
    return publish_many([NewMessage(channel, data, event, idempotency_key, published_by)])[0]


async def apublish(
    channel: str,
    data: Any,
    *,
    event: str = "message",
    idempotency_key: str | None = None,
    published_by: Any = None,
) -> Message:
    """See publish(). Calls that run at the same time share a transaction. Cancelled, it may still publish."""
    return (await apublish_many([NewMessage(channel, data, event, idempotency_key, published_by)]))[0]


def publish_many(messages: Iterable[NewMessage]) -> list[Message]:
    """Append several messages, all of them or none, in one transaction and in the order given. See publish()."""
    _refuse_on_event_loop()
    with outages.explained():
        return _publish([check(message) for message in messages])


async def apublish_many(messages: Iterable[NewMessage]) -> list[Message]:
    """See publish_many()."""
    with outages.explained():
        return await _apublish([check(message) for message in messages])


async def _apublish(checked: Sequence[NewMessage]) -> list[Message]:
    if not threads.uses_log_threads():
        # In a sync caller's thread, so that the messages belong to the transaction that it may have open.
        return await threads.run(_publish, checked)
    if not checked:
        return []
    # Enqueued before a thread is asked for: what is enqueued in the meantime goes out in the same transaction.
    group = _writer.enqueue(checked)
    try:
        return await threads.run(_writer.write, group, pool=threads.WRITING)
    except IdempotencyKeyInUse:
        return await _publish_when_key_is_free(checked)
    except threads.DatabaseTimeout as error:
        _writer.give_up(group, error)
        raise
    except BaseException:
        _writer.withdraw(group)  # cancelled, or no thread could start
        raise


async def _publish_when_key_is_free(messages: Sequence[NewMessage]) -> list[Message]:
    """Wait for the transaction that has used an idempotency key, without holding a thread while it lasts."""
    for pause in _key_pauses():
        await asyncio.sleep(pause)
        try:
            return await threads.run(partial(log.store, messages, wait_for_keys=False), pool=threads.WAITING)
        except IdempotencyKeyInUse:
            pass
    return await threads.run(partial(log.store, messages, wait_for_keys=False), pool=threads.WAITING)


def _refuse_on_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):  # as Django's own rule has it, for notebooks
        raise SynchronousOnlyOperation(
            "publish() waits for the database, and would hold up everything else on this event loop. "
            "Use `await apublish(…)` here."
        )


def _publish(messages: Sequence[NewMessage]) -> list[Message]:
    if not messages:
        return []
    with test_run.strategy().connection():
        return _publish_on_this_thread(messages)


def _publish_on_this_thread(messages: Sequence[NewMessage]) -> list[Message]:
    connection: Any = connections[threads.database()]
    # The transaction in which Django's TestCase wraps a test is not the caller's: it never commits.
    if django_internals.in_callers_transaction(connection):
        return _publish_in_transaction(connection, messages)
    if not connection.in_atomic_block and not connection.get_autocommit():
        # Manual transaction management has no hooks; a hub's next poll gives positions to what is committed.
        return log.append(messages)
    if connection.in_atomic_block or _writer.is_ours():
        # What belongs to a test's transaction must not be written by another thread, nor others' messages in it.
        return log.store(messages)
    try:
        return _writer.write(_writer.enqueue(messages))
    except IdempotencyKeyInUse:
        pass  # the caller's own thread waits, and no other publisher with it
    for pause in _key_pauses():
        time.sleep(pause)
        with contextlib.suppress(IdempotencyKeyInUse):
            return log.store(messages, wait_for_keys=False)
    return log.store(messages, wait_for_keys=False)


def _key_pauses() -> Iterator[float]:
    """Yield the pauses, in seconds, after which a message is tried again whose idempotency key is in use."""
    end = time.monotonic() + KEY_IN_USE_SECONDS
    pause = 0.05
    while time.monotonic() < end:
        yield pause
        pause = min(2 * pause, 1.0)


# --- Inside the caller's transaction --------------------------------------------------------------------------------


def _publish_in_transaction(connection: Any, messages: Sequence[NewMessage]) -> list[Message]:
    rows = log.append(messages)
    # Django drops the hooks of a savepoint that is rolled back; a hook that is still there now runs if ours does.
    hooks = reversed(django_internals.commit_hooks(connection))
    earlier = next((hook for hook in hooks if isinstance(hook, _AfterCommit)), None)
    hook = _AfterCommit(rows, earlier.outcome if earlier else _Outcome())
    hook.outcome.rows |= {row.pk: row for row in rows if row.position is None}
    # robust: the caller's work is committed, and must not fail on what comes after. A hub's poll gives the positions.
    transaction.on_commit(hook, using=connection.alias, robust=True)
    return rows


class _Outcome:
    """What the hooks of one transaction share: the first of them works for all, once."""

    def __init__(self) -> None:
        self.began_at = time.monotonic()
        self.rows: dict[int, Message] = {}
        self.positions: dict[int, int] | None = None


class _AfterCommit:
    """An on_commit hook: give positions to the messages of the transaction, and notify."""

    def __init__(self, rows: Sequence[Message], outcome: _Outcome) -> None:
        self.rows = rows
        self.outcome = outcome
        # Django logs a failed hook by this name, and needs it to be there.
        self.__qualname__ = "streams.publishing.sequence_after_commit"

    def __call__(self) -> None:
        outcome = self.outcome
        if outcome.positions is None:
            outcome.positions = {}  # before the attempt: if it fails, the transaction's other hooks do not try again
            age = time.monotonic() - outcome.began_at
            outcome.positions = log.sequence_after_commit(outcome.rows, age_seconds=age)
        for row in self.rows:
            if row.position is None:
                row.position = outcome.positions.get(row.pk)


_writer = per_process(Writer)
