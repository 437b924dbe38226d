"""Group commit: publishers of one process that arrive together share a transaction, and a notice."""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from django.db import InterfaceError, OperationalError, connections

from streams import log, threads
from streams.events import NewMessage
from streams.exceptions import StreamsError
from streams.log_connections import shut_down
from streams.models import Message
from streams.threads import database

# What one shared transaction takes, unless a single call has more: no publisher waits for an endless one, and the
# memory that it needs is bounded.
GROUP_MESSAGES = 1000
GROUP_CHARACTERS = 4_194_304


class Group:
    """The messages of one call, and their outcome: rows, or an error."""

    def __init__(self, messages: Sequence[NewMessage]) -> None:
        self.messages = messages
        self.characters = sum(len(message.data) for message in messages)
        self.has_keys = any(message.idempotency_key is not None for message in messages)
        self.rows: list[Message] | None = None
        self.error: BaseException | None = None
        self.attended = False  # a thread waits for it
        self.called = threading.Event()  # wakes that thread: the group is done, or the turn is its own

    @property
    def done(self) -> bool:
        return self.rows is not None or self.error is not None

    def result(self) -> list[Message]:
        if self.error is not None:
            raise self.error
        assert self.rows is not None
        return self.rows


class Writer:
    """Group commit: a commit takes as long for one message as for a hundred.

    One thread at a time writes for all that wait, on its own connection; the others find their work done, or are called
    to write for those that came in the meantime. So the cost of a message falls as load rises, and there is no thread
    to start, to stop or to lose.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for moments; never while anything is written
        self._turn: Group | None = None  # its thread writes, or has been called to
        self._thread: int | None = None  # the one that writes
        self._waiting: deque[Group] = deque()
        self._writing: list[Group] = []  # the groups of the transaction that is being written
        self._began = 0.0  # that transaction, in time.monotonic() seconds
        self._connection: Any = None  # of the thread that writes it; of the last one, if none does

    def is_ours(self) -> bool:
        """Return True if the calling thread is writing: it publishes because publishing made it log something."""
        return self._thread == threading.get_ident()

    def enqueue(self, messages: Sequence[NewMessage]) -> Group:
        """Add the messages to those that the next transaction takes. From any thread, and from an event loop."""
        group = Group(messages)
        with self._lock:
            self._waiting.append(group)
        return group

    def withdraw(self, group: Group) -> None:
        """Take back a group that no thread has begun to write.

        Its caller waits no longer, and it would be published with the next call, much later.
        """
        with self._lock:
            if group in self._waiting:
                self._waiting.remove(group)
                group.error = StreamsError("The caller stopped waiting before this was published; nothing was stored.")
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
        if self._writing:
            shut_down(self._connection)  # so that the thread wakes and ends
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
            threads.connect()  # before the turn: the threads that wait for it can hold all connections of a pool
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
            self.withdraw(group)  # if this thread was interrupted before its turn
            raise
        finally:
            with self._lock:
                if self._turn is group:
                    self._thread = None
                    self._pass_on()
        return group.result()

    def _pass_on(self) -> None:
        """Give the turn to a thread that waits. Not to a group that has no thread yet: the turn would be lost."""
        self._turn = next((group for group in self._waiting if group.attended), None)
        if self._turn is not None:
            self._turn.called.set()

    def _write_waiting(self) -> None:
        groups = self._next()
        try:
            self._store(groups)
        except Exception as error:
            if len(groups) == 1:
                groups[0].error = error
            elif isinstance(error, InterfaceError | OperationalError):
                for group in groups:  # the database itself has failed: each would wait as long again
                    group.error = error
            else:
                self._store_apart(groups)
        finally:
            with self._lock:
                if self._writing is groups:
                    self._writing = []
            for group in groups:
                if not group.done:  # this thread is being interrupted: no other may wait for it any longer
                    group.error = StreamsError(
                        "The thread that was publishing this was interrupted. It is unknown whether it was published."
                    )
                group.called.set()

    def _next(self) -> list[Group]:
        """Take the groups of the next transaction."""
        with self._lock:
            groups = [self._waiting.popleft()]
            messages, characters = len(groups[0].messages), groups[0].characters
            while self._waiting:
                messages += len(self._waiting[0].messages)
                characters += self._waiting[0].characters
                if messages > GROUP_MESSAGES or characters > GROUP_CHARACTERS:
                    break
                groups.append(self._waiting.popleft())
            self._writing, self._began = groups, time.monotonic()
            self._connection = connections[database()]
        return groups

    def _store_apart(self, groups: Sequence[Group]) -> None:
        """Store groups of which one cannot be stored, so that the others do not suffer for it."""
        without_keys = [group for group in groups if not group.has_keys]
        parts = [[group] for group in groups if group.has_keys]
        parts += [without_keys] if len(without_keys) < len(groups) else [[group] for group in groups]
        for part in filter(None, parts):
            if any(group.done for group in part):
                continue  # the turn was taken from this thread
            try:
                self._store(part)
            except Exception as error:
                if isinstance(error, InterfaceError | OperationalError):
                    for group in part:  # it can be stored: written again, it would be so twice
                        group.error = error
                elif len(part) > 1:
                    self._store_apart(part)
                else:
                    part[0].error = error

    def _store(self, groups: Sequence[Group]) -> None:
        rows = iter(log.store([message for group in groups for message in group.messages], wait_for_keys=False))
        owners: dict[int, Group] = {}
        for group in groups:
            own = list(itertools.islice(rows, len(group.messages)))
            for n, row in enumerate(own):
                if owners.setdefault(id(row), group) is not group:
                    own[n] = copy.copy(row)  # found under the key of another call's message
                    own[n].is_new = False
            group.rows = own
