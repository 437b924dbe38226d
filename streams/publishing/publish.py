"""publish() and its async and many-message forms.

Outside a transaction, publishers of one process that arrive together share one (see group_commit.py). Inside a
transaction, the message belongs to it, and gets its position after the commit. This package never imports the hub: they
meet at the log and the notifier.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from django.db import connections, transaction
from django.utils.asyncio import async_unsafe

from streams import log
from streams.exceptions import IdempotencyKeyInUse
from streams.models import Message
from streams.private import django as django_internals
from streams.protocol.events import NewMessage, check
from streams.publishing.group_commit import Writer
from streams.runtime import executor, failures, test_run
from streams.runtime.database import require_supported
from streams.runtime.resets import per_process
from streams.telemetry import tracing
from streams.telemetry.publishing import Publishing

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
        data: in a str, CR and CRLF become LF, because the format cannot carry them. Anything else becomes JSON by
            DjangoJSONEncoder. At most MAX_MESSAGE_BYTES in UTF-8.
        event: the type that clients listen for, one line of at most 99 characters. `stream-…` is reserved. Do not use
            `error` and `open`, because an EventSource has events of its own with these names.
        idempotency_key: the same key on the same channel returns the first message and appends nothing.
        published_by: the user who published, for the record. Must be saved.

    Returns:
        The Message. Its `position`, the event's id, is None until the transaction has committed. Just after the commit
        it can still be None if another process is giving positions at that moment; refresh_from_db() reads it. Its
        `is_new` is False if it was found under its idempotency key.

    Raises:
        InvalidMessage: a field breaks one of the rules. Nothing was stored.
        IdempotencyKeyInUse: a transaction that has used the key is still open after 30 seconds. Nothing was stored.
        NotMigrated: the database lacks a table or a column, because `manage.py migrate` was not run.
        UnsupportedDatabase: the log's database is neither PostgreSQL nor SQLite.
        django.db.OperationalError: the database does not answer, or its disk is full.
        SynchronousOnlyOperation: called on a running event loop; await apublish() there.

    Works in any process that has the models: ASGI, WSGI, Celery, a shell. Inside `transaction.atomic()` the message
    belongs to that transaction: if it is rolled back, nothing is published.
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
    """See publish(). Concurrent calls share a transaction. A call that is cancelled may still publish."""
    return (await apublish_many([NewMessage(channel, data, event, idempotency_key, published_by)]))[0]


@async_unsafe(
    "publish() waits for the database, and would block everything else on this event loop. "
    "Use `await apublish(…)` here."
)
def publish_many(messages: Iterable[NewMessage]) -> list[Message]:
    """Append several messages, all of them or none, in one transaction and in the order given. See publish()."""
    with Publishing() as call, failures.explained():
        checked = [check(message, call.traceparent) for message in messages]
        call.messages = len(checked)
        if call.traceparent:
            call.name({message.channel for message in checked})
        if not checked:
            return []
        require_supported()
        with test_run.strategy().connection():
            connection: Any = connections[executor.database()]
            # The transaction in which Django's TestCase wraps a test is not the caller's: it never commits.
            if django_internals.in_callers_transaction(connection):
                call.in_transaction = True
                return _append_to_callers_transaction(connection, checked)
            if not connection.in_atomic_block and not connection.get_autocommit():
                # Manual transaction management has no hooks. The next poll of a hub gives positions after the commit.
                call.in_transaction = True
                return log.append(checked)
            if connection.in_atomic_block or _writer.is_ours():
                # Another thread must not write the messages of a test's transaction, nor this one others' messages.
                return log.store(checked)
            try:
                return _writer.write(_writer.enqueue(checked))
            except IdempotencyKeyInUse:
                pass  # wait in this thread, and hold no other publisher up
            for pause in _key_pauses():
                time.sleep(pause)
                with contextlib.suppress(IdempotencyKeyInUse):
                    return log.store(checked, wait_for_keys=False)
            return log.store(checked, wait_for_keys=False)


async def apublish_many(messages: Iterable[NewMessage]) -> list[Message]:
    """See publish_many()."""
    if not executor.uses_log_threads():
        # In the thread of the sync caller, so that the messages belong to the transaction that it may have open.
        return await executor.run(tracing.carried(publish_many), list(messages))
    with Publishing() as call, failures.explained():
        checked = [check(message, call.traceparent) for message in messages]
        call.messages = len(checked)
        if call.traceparent:
            call.name({message.channel for message in checked})
        if not checked:
            return []
        require_supported()
        # Enqueued before a thread is asked for: messages that arrive in the meantime go out in the same transaction.
        group = _writer.enqueue(checked)
        try:
            return await executor.run(_writer.write, group, pool=executor.WRITING)
        except IdempotencyKeyInUse:
            return await _publish_when_key_is_free(checked)
        except executor.DatabaseTimeout as error:
            _writer.give_up(group, error)
            raise
        except BaseException:
            _writer.withdraw(group)  # cancelled, or no thread could start
            raise


async def _publish_when_key_is_free(messages: Sequence[NewMessage]) -> list[Message]:
    """Wait for the transaction that has used an idempotency key, without holding a thread."""
    store = partial(log.store, messages, wait_for_keys=False)
    for pause in _key_pauses():
        await asyncio.sleep(pause)
        with contextlib.suppress(IdempotencyKeyInUse):
            return await executor.run(store, pool=executor.WAITING)
    return await executor.run(store, pool=executor.WAITING)


def _key_pauses() -> Iterator[float]:
    """Yield the pauses, in seconds, before each new attempt while an idempotency key is in use."""
    end = time.monotonic() + KEY_IN_USE_SECONDS
    pause = 0.05
    while time.monotonic() < end:
        yield pause
        pause = min(2 * pause, 1.0)


# --- Inside the caller's transaction --------------------------------------------------------------------------------


def _append_to_callers_transaction(connection: Any, messages: Sequence[NewMessage]) -> list[Message]:
    rows = log.append(messages)
    # Django drops the hooks of a savepoint that is rolled back. So a hook that is still there runs if this one does.
    hooks = reversed(django_internals.commit_hooks(connection))
    earlier = next((hook for hook in hooks if isinstance(hook, _AfterCommit)), None)
    hook = _AfterCommit(rows, earlier.outcome if earlier else _Outcome())
    hook.outcome.rows |= {row.pk: row for row in rows if row.position is None}
    # robust: the caller's transaction is committed, and must not seem to fail. A hub's poll gives the positions.
    transaction.on_commit(hook, using=connection.alias, robust=True)
    return rows


@dataclass
class _Outcome:
    """The state that the hooks of one transaction share. The first hook gives positions to the messages of all."""

    began_at: float = field(default_factory=time.monotonic)
    rows: dict[int, Message] = field(default_factory=dict)
    positions: dict[int, int] | None = None


class _AfterCommit:
    """An on_commit hook: give positions to the messages of the transaction, and notify."""

    def __init__(self, rows: Sequence[Message], outcome: _Outcome) -> None:
        self.rows = rows
        self.outcome = outcome
        # Django logs a failed hook by this name, and requires it.
        self.__qualname__ = "streams.publishing.publish.sequence_after_commit"

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
