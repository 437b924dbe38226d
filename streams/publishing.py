"""What callers use to append to the log: publish and its async and many-message forms.

Outside a transaction, publishers of one process that come at the same time share one (writer.py). Inside one, the
message belongs to the caller's transaction, and is sequenced after its commit. It never imports the hub: the two meet
at the log and the notifier.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, transaction

from streams import log, threads
from streams.events import NewMessage, check
from streams.models import Message
from streams.writer import Writer, notify, set_positions


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
        The Message. Its `position`, the event's id, is None until the transaction has committed. Its `is_new` is False
        where it was found under its idempotency key.

    Raises:
        InvalidMessage: the message cannot be carried. Nothing was stored.
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
    return _publish([check(message) for message in messages])


async def apublish_many(messages: Iterable[NewMessage]) -> list[Message]:
    """See publish_many()."""
    checked = [check(message) for message in messages]
    if not threads.uses_log_threads():
        # In a sync caller's thread, so that the messages belong to the transaction that it may have open.
        return await threads.run(_publish, checked)
    if not checked or _may_wait(checked):
        return await threads.run(_publish, checked, pool=threads.WAITING, seconds=threads.timeout_seconds())
    # Enqueued before a thread is asked for: what is enqueued meanwhile goes out in the same transaction.
    group = _writer.enqueue(checked)
    try:
        return await threads.run(_writer.write, group, pool=threads.WRITING)
    except threads.DatabaseTimeout as error:
        _writer.give_up(group, error)
        raise
    except (asyncio.CancelledError, RuntimeError):  # RuntimeError: the machine has no thread to give
        _writer.withdraw(group)
        raise


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
    with threads.test_connection():
        return _publish_on_this_thread(messages)


def _publish_on_this_thread(messages: Sequence[NewMessage]) -> list[Message]:
    connection: Any = connections[threads.database()]
    # The transaction in which Django's TestCase wraps a test is not the caller's: it never commits.
    if any(not block._from_testcase for block in connection.atomic_blocks):
        return _publish_in_transaction(connection, messages)
    if not connection.in_atomic_block and not connection.get_autocommit():
        # Manual transaction management has no hooks; a hub's next poll sequences what is committed.
        return log.append(messages)
    if connection.in_atomic_block or _may_wait(messages) or _writer.is_ours():
        # What belongs to a test's transaction must not be written by another thread, nor others' messages in it.
        return _writer.write_alone(messages)
    return _writer.write(_writer.enqueue(messages))


def _may_wait(messages: Sequence[NewMessage]) -> bool:
    """Whether publishing them may wait for a transaction that has used the same key. Nobody is to wait along."""
    return any(message.idempotency_key is not None for message in messages)


# --- Inside the caller's transaction --------------------------------------------------------------------------------


def _publish_in_transaction(connection: Any, messages: Sequence[NewMessage]) -> list[Message]:
    rows = log.append(messages)
    # Django drops the hooks of a savepoint that is rolled back; what is still there now will run, or not, with ours.
    earlier = next((hook for _, hook, _ in reversed(connection.run_on_commit) if isinstance(hook, _AfterCommit)), None)
    hook = _AfterCommit(rows, earlier.outcome if earlier else _Outcome())
    if connection.vendor == "postgresql":
        # SQLite gives the ids of what a savepoint has rolled back again: there an id does not tell whose message it is,
        # and the notice goes out without messages.
        hook.outcome.rows |= {row.pk: row for row in rows}
    # robust: the caller's work is committed, and must not fail on what comes after. A hub's poll would sequence it.
    transaction.on_commit(hook, using=connection.alias, robust=True)
    return rows


class _Outcome:
    """What sequencing after a commit gave; shared by all publishes of the transaction, done by the first of them."""

    def __init__(self) -> None:
        self.rows: dict[int, Message] = {}
        self.positions: dict[int, int] | None = None


class _AfterCommit:
    """An on_commit hook: sequence what the transaction has published, and notify."""

    def __init__(self, rows: Sequence[Message], outcome: _Outcome) -> None:
        self.rows = rows
        self.outcome = outcome
        # Django logs a failed hook by this name, and takes for granted that it has one.
        self.__qualname__ = "streams.publishing.sequence_after_commit"

    def __call__(self) -> None:
        positions = self.outcome.positions
        if positions is None:
            positions = self.outcome.positions = log.sequence()
            notify(positions, self.outcome.rows)
        set_positions(self.rows, positions)


_writer = Writer()


def _renew_writer() -> None:
    global _writer
    _writer = Writer()


os.register_at_fork(after_in_child=_renew_writer)  # a child inherits nobody's turn, and nobody who waits
