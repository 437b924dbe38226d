"""What callers use to append to the log: publish and its async and many-message forms.

Outside a transaction, publishers of one process that come at the same time share one (class Writer). Inside one, the
message belongs to the caller's transaction, and is sequenced after its commit. It never imports the hub: the two meet
at the log and the notifier.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation
from django.db import InterfaceError, OperationalError, connections, transaction

from streams import log, threads
from streams.events import NewMessage, StoredEvent, check
from streams.exceptions import StreamsError
from streams.models import Message
from streams.notifiers import Notice, get_notifier

logger = logging.getLogger("streams.publishing")

# What one shared transaction takes at most, so that nobody waits for an endless one.
GROUP_MESSAGES = 1000


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
        event: the type that clients listen for, one line of at most 99 characters. `stream-…` is reserved.
        idempotency_key: the same key on the same channel returns the first message and appends nothing.
        published_by: the user who published, for the record.

    Returns:
        The Message. Its `position`, the event's id, is None until the transaction has committed.

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
        return await threads.run(_publish, checked, pool=threads.WAITING)
    # Enqueued before a thread is asked for: what is enqueued meanwhile goes out in the same transaction.
    group = _writer.enqueue(checked)
    try:
        return await threads.run(_writer.write, group, pool=threads.WRITING)
    except asyncio.CancelledError:
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
            _notify(positions, self.outcome.rows)
        _set_positions(self.rows, positions)


def _set_positions(rows: Iterable[Message], positions: dict[int, int]) -> None:
    for row in rows:
        if row.position is None:
            row.position = positions.get(row.pk)
        if row.position is None:  # another process was quicker to sequence it
            row.position = log.position_of(row.pk)


# --- Outside: one transaction for all who come together --------------------------------------------------------------


class _Group:
    """The messages of one call, and what came of them."""

    def __init__(self, messages: Sequence[NewMessage]) -> None:
        self.messages = messages
        self.rows: list[Message] | None = None
        self.error: BaseException | None = None
        self.attended = False  # a thread waits for it
        self.called = threading.Event()  # that thread: it is done, or yours is the turn

    @property
    def done(self) -> bool:
        return self.rows is not None or self.error is not None

    def result(self) -> list[Message]:
        if self.error is not None:
            raise self.error
        assert self.rows is not None
        return self.rows


class Writer:
    """Group commit: a commit costs the same for one message as for a hundred, and positions are given one at a time.

    One thread at a time writes, for all who wait, on its own connection; the others find their work done, or are called
    to write for those who came meanwhile. So the cost of a message falls as load rises, and there is no thread to
    start, to stop or to lose.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for moments; never while anything is written
        self._turn: _Group | None = None  # whose thread writes, or has been called to
        self._thread: int | None = None  # the one that writes
        self._waiting: deque[_Group] = deque()

    def is_ours(self) -> bool:
        """Whether the calling thread is writing: it publishes what publishing has made it log."""
        return self._thread == threading.get_ident()

    def enqueue(self, messages: Sequence[NewMessage]) -> _Group:
        """Add the messages to those that the next transaction takes. From any thread, and from an event loop."""
        group = _Group(messages)
        with self._lock:
            self._waiting.append(group)
        return group

    def withdraw(self, group: _Group) -> None:
        """Take back what nobody has begun to write: nobody waits for it any more, and it would go out with whoever
        publishes next, much later."""
        with self._lock:
            if group in self._waiting:
                self._waiting.remove(group)
                group.error = StreamsError("Nobody waited for this to be published any more.")
                group.called.set()
            if self._turn is group and self._thread is None:
                self._pass_on()  # called to write, and interrupted before it began

    def write(self, group: _Group) -> list[Message]:
        """See to it that `group` is written, and return its rows. Blocks."""
        try:
            with self._lock:
                group.attended = True
                if self._turn is None:
                    self._turn = group
                    group.called.set()
            group.called.wait()
            with self._lock:
                ours = self._turn is group
                if ours:
                    self._thread = threading.get_ident()
            while ours and not group.done:
                self._write_waiting()
        except BaseException:
            self.withdraw(group)  # where this thread was interrupted before its turn
            raise
        finally:
            with self._lock:
                if self._turn is group:
                    self._thread = None
                    self._pass_on()
        return group.result()

    def write_alone(self, messages: Sequence[NewMessage]) -> list[Message]:
        """Write messages in a transaction of their own, without waiting for a turn and without holding one. Blocks."""
        group = _Group(messages)
        self._commit([group])
        return group.result()

    def _pass_on(self) -> None:
        """Give the turn to a thread that waits. Not to a group that has none yet: it would be lost to all others."""
        self._turn = next((group for group in self._waiting if group.attended), None)
        if self._turn is not None:
            self._turn.called.set()

    def _write_waiting(self) -> None:
        with self._lock:
            groups = [self._waiting.popleft()]
            size = len(groups[0].messages)
            while self._waiting and size + len(self._waiting[0].messages) <= GROUP_MESSAGES:
                groups.append(self._waiting.popleft())
                size += len(groups[-1].messages)
        try:
            self._commit(groups)
        except Exception as error:
            if len(groups) == 1:
                groups[0].error = error
                return
            for group in groups:  # one cannot be stored; the others are not to suffer for it
                try:
                    self._commit([group])
                except Exception as own:
                    group.error = own
        finally:
            for group in groups:
                if not group.done:  # this thread is being interrupted: nobody may wait for it any longer
                    group.error = StreamsError("The thread that was publishing this was interrupted. Publish it again.")
                group.called.set()

    def _commit(self, groups: Sequence[_Group]) -> None:
        committing = False
        try:
            with log.own_transaction():
                written = log.append([message for group in groups for message in group.messages])
                positions = log.sequence()
                _set_positions(written, positions)
                committing = True
        except (InterfaceError, OperationalError) as error:
            if not committing:
                raise
            for group in groups:  # nobody knows whether they are stored: written again, they might be so twice
                group.error = error
            return
        rows = iter(written)
        for group in groups:
            group.rows = [next(rows) for _ in group.messages]
        _notify(positions, {row.pk: row for row in written})


_writer = Writer()


def _renew_writer() -> None:
    global _writer
    _writer = Writer()


os.register_at_fork(after_in_child=_renew_writer)  # a child inherits nobody's turn, and nobody who waits


def _notify(positions: dict[int, int], rows: dict[int, Message]) -> None:
    """Tell the hubs of the positions that were just given. A failure is logged: the log has the messages."""
    if not positions:
        return
    messages: tuple[StoredEvent, ...] = ()
    if rows.keys() >= positions.keys():
        messages = tuple(
            StoredEvent(place, rows[pk].channel, rows[pk].event, rows[pk].data) for pk, place in positions.items()
        )
    places = positions.values()
    try:
        get_notifier().notify(Notice(min(places), max(places), messages))
    except Exception:
        logger.exception("The notifier failed; subscribers will find the messages by polling the log.")
