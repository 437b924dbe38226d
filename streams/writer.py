"""Group commit: publishers of one process that come together share a transaction, and a notice."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence

from django.db import InterfaceError, OperationalError

from streams import log, outages, threads
from streams.events import NewMessage, StoredEvent
from streams.exceptions import StreamsError
from streams.models import Message
from streams.notifiers import Notice, get_notifier

logger = logging.getLogger("streams.publishing")

# What one shared transaction takes at most, so that nobody waits for an endless one.
GROUP_MESSAGES = 1000


class Group:
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
        self._turn: Group | None = None  # whose thread writes, or has been called to
        self._thread: int | None = None  # the one that writes
        self._waiting: deque[Group] = deque()
        self._writing: list[Group] = []  # the groups of the transaction that is being written
        self._began = 0.0  # that transaction, in time.monotonic() seconds

    def is_ours(self) -> bool:
        """Whether the calling thread is writing: it publishes what publishing has made it log."""
        return self._thread == threading.get_ident()

    def enqueue(self, messages: Sequence[NewMessage]) -> Group:
        """Add the messages to those that the next transaction takes. From any thread, and from an event loop."""
        group = Group(messages)
        with self._lock:
            self._waiting.append(group)
        return group

    def withdraw(self, group: Group) -> None:
        """Take back what nobody has begun to write: nobody waits for it any more, and it would go out with whoever
        publishes next, much later."""
        with self._lock:
            if group in self._waiting:
                self._waiting.remove(group)
                group.error = StreamsError("Nobody waited for this to be published any more.")
                group.called.set()
            if self._turn is group and self._thread is None:
                self._pass_on()  # called to write, and interrupted before it began

    def give_up(self, group: Group, error: Exception) -> None:
        """Fail `group`: the log thread that worked for it was abandoned. If it had the turn, another group gets it."""
        self.withdraw(group)
        with self._lock:
            if self._turn is group:
                self._depose(error)
        self._depose_if_overdue()

    def _depose(self, error: Exception) -> None:
        """Take the turn from a thread whose database does not answer. It is unknown whether its groups are stored."""
        for group in self._writing:
            group.error = error
            group.called.set()
        self._writing = []
        self._thread = None
        self._pass_on()

    def _depose_if_overdue(self) -> None:
        """Take the turn from a thread that no pool of ours can abandon, such as one of a request."""
        seconds = threads.timeout_seconds()
        with self._lock:
            if seconds is not None and self._writing and time.monotonic() - self._began > seconds:
                self._depose(
                    threads.DatabaseTimeout(
                        f"The log's database did not answer within {seconds:g} s. It is unknown whether this was "
                        "published."
                    )
                )

    def write(self, group: Group) -> list[Message]:
        """See to it that `group` is written, and return its rows. Blocks."""
        try:
            threads.connect()  # before the turn: those who wait for it can hold all connections of a pool
            with self._lock:
                group.attended = True
                if self._turn is None:
                    self._turn = group
                    group.called.set()
            while not group.called.wait(threads.timeout_seconds()):
                self._depose_if_overdue()
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
        group = Group(messages)
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
            self._writing, self._began = groups, time.monotonic()
        try:
            self._commit(groups)
        except Exception as error:
            if len(groups) == 1:
                groups[0].error = error
                return
            if isinstance(error, InterfaceError | OperationalError):
                for group in groups:  # it is the database itself: one after the other would only wait as long again
                    group.error = error
                return
            for group in groups:  # one cannot be stored; the others are not to suffer for it
                if group.done:
                    continue  # this thread was deposed
                try:
                    self._commit([group])
                except Exception as own:
                    group.error = own
        finally:
            with self._lock:
                if self._writing is groups:
                    self._writing = []
            for group in groups:
                if not group.done:  # this thread is being interrupted: nobody may wait for it any longer
                    group.error = StreamsError("The thread that was publishing this was interrupted. Publish it again.")
                group.called.set()

    def _commit(self, groups: Sequence[Group]) -> None:
        committing = False
        try:
            with log.own_transaction():
                written = log.append([message for group in groups for message in group.messages])
                positions = log.sequence()
                set_positions(written, positions)
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
        notify(positions, {row.pk: row for row in written})


def set_positions(rows: Iterable[Message], positions: dict[int, int]) -> None:
    for row in rows:
        if row.position is None:
            row.position = positions.get(row.pk)
        if row.position is None:  # another process was quicker to sequence it
            row.position = log.position_of(row.pk)


def notify(positions: dict[int, int], rows: dict[int, Message]) -> None:
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
        outages.SENDING.failed(logger, "The notifier failed; subscribers will find the messages by polling the log.")
    else:
        outages.SENDING.works()
