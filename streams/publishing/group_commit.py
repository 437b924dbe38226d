"""Group commit: publishers of one process that arrive together share a transaction, and a notice."""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import InterfaceError, OperationalError, connections

from streams import log
from streams.exceptions import StreamsError
from streams.models import Message
from streams.protocol.events import NewMessage
from streams.runtime import executor
from streams.runtime.connections import shut_down
from streams.runtime.executor import database
from streams.telemetry import recorder

# The limits of one shared transaction, unless a single call has more. They bound the wait of each publisher, and the
# memory.
GROUP_MESSAGES = 1000
GROUP_CHARACTERS = 4_194_304


@dataclass(eq=False, slots=True)
class Group:
    """The messages of one call, and their outcome: their rows, or an error."""

    messages: Sequence[NewMessage]
    outcome: list[Message] | BaseException | None = None
    attended: bool = False  # a thread waits for it
    called: threading.Event = field(default_factory=threading.Event)  # wakes that thread: it is done, or has the turn

    @property
    def has_keys(self) -> bool:
        return any(message.idempotency_key is not None for message in self.messages)


class Writer:
    """Group commit: a commit takes as long for a hundred messages as for one.

    One thread at a time has the turn: it writes the messages of all publishers that wait, on its own connection. The
    other threads find their messages written, or get the turn for those that arrived in the meantime. So the cost of a
    message falls as load rises, and no thread of its own is needed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for moments, never during a write
        self._turn: Group | None = None  # its thread writes, or has been woken to write
        self._thread: int | None = None  # the thread that writes
        self._waiting: deque[Group] = deque()
        self._writing: list[Group] = []  # the groups of the transaction that is being written
        self._began = 0.0  # the start of that transaction, in time.monotonic() seconds
        self._connection: Any = None  # of the thread that writes or wrote last

    def is_ours(self) -> bool:
        """Return True if the calling thread is writing: it publishes because publishing made it log something."""
        return self._thread == threading.get_ident()

    def enqueue(self, messages: Sequence[NewMessage]) -> Group:
        """Queue the messages for the next transaction. Can be called from any thread, and on an event loop."""
        group = Group(messages)
        with self._lock:
            self._waiting.append(group)
        return group

    def withdraw(self, group: Group) -> None:
        """Remove a group that no thread has begun to write.

        Otherwise it would be published with the next call, after its own caller has stopped waiting.
        """
        with self._lock:
            if group in self._waiting:
                self._waiting.remove(group)
                group.outcome = StreamsError(
                    "The caller stopped waiting before this was published; nothing was stored."
                )
                group.called.set()
            if self._turn is group and self._thread is None:
                self._pass_on()  # it got the turn, and was interrupted before it began

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
            group.outcome = error
            group.called.set()
        if self._writing:
            shut_down(self._connection)  # so that the thread wakes and ends
        self._writing = []
        self._thread = None
        self._pass_on()

    def _depose_if_overdue(self) -> None:
        """Take the turn from a thread that is in no pool of ours, such as the thread of a request."""
        seconds = executor.timeout_seconds()
        with self._lock:
            if seconds is not None and self._writing and time.monotonic() - self._began > seconds:
                self._depose(
                    executor.DatabaseTimeout(
                        f"The log's database did not answer within {seconds:g} s. It is unknown whether this was "
                        "published."
                    )
                )

    def write(self, group: Group) -> list[Message]:
        """Write `group`, or wait until another thread has, and return its rows. Blocks."""
        try:
            executor.connect()  # before the turn: the threads that wait for it can hold all connections of a pool
            with self._lock:
                group.attended = True
                if self._turn is None:
                    self._turn = group
                    group.called.set()
            while not group.called.wait(executor.timeout_seconds()):
                self._depose_if_overdue()
            with self._lock:
                ours = self._turn is group
                if ours:
                    self._thread = threading.get_ident()
            while ours and group.outcome is None:
                self._write_waiting()
        except BaseException:
            self.withdraw(group)  # if this thread was interrupted before its turn
            raise
        finally:
            with self._lock:
                if self._turn is group:
                    self._thread = None
                    self._pass_on()
        assert group.outcome is not None
        if isinstance(group.outcome, BaseException):
            raise group.outcome
        return group.outcome

    def _pass_on(self) -> None:
        """Give the turn to a thread that waits. Not to a group without a thread yet: the turn would be lost."""
        self._turn = next((group for group in self._waiting if group.attended), None)
        if self._turn is not None:
            self._turn.called.set()

    def _write_waiting(self) -> None:
        """Write as many of the waiting groups as one transaction takes."""
        groups: list[Group] = []
        messages = characters = 0
        with self._lock:
            while self._waiting:
                following = self._waiting[0].messages
                messages += len(following)
                characters += sum(len(message.data) for message in following)
                if groups and (messages > GROUP_MESSAGES or characters > GROUP_CHARACTERS):
                    messages -= len(following)
                    break
                groups.append(self._waiting.popleft())
            self._writing, self._began = groups, time.monotonic()
            self._connection = connections[database()]
        recorder.current.group_written(messages)
        try:
            self._store(groups)
        finally:
            with self._lock:
                if self._writing is groups:
                    self._writing = []
            for group in groups:
                if group.outcome is None:  # this thread is being interrupted, and no other thread must wait for it
                    group.outcome = StreamsError(
                        "The thread that was publishing this was interrupted. It is unknown whether it was published."
                    )
                group.called.set()

    def _store(self, groups: Sequence[Group]) -> None:
        """Store groups in one transaction. If one of them cannot be stored, store smaller parts, so that others can."""
        try:
            rows = iter(log.store([message for group in groups for message in group.messages], wait_for_keys=False))
        except Exception as error:
            if len(groups) == 1 or isinstance(error, InterfaceError | OperationalError):
                # If the database has failed, the groups may be stored already, and each would wait as long again.
                for group in groups:
                    group.outcome = error
                return
            for part in _parts(groups):
                if all(group.outcome is None for group in part):  # otherwise the turn was taken from this thread
                    self._store(part)
            return
        owners: dict[int, Group] = {}
        for group in groups:
            own = list(itertools.islice(rows, len(group.messages)))
            for n, row in enumerate(own):
                if owners.setdefault(id(row), group) is not group:
                    own[n] = copy.copy(row)  # found under the key of another call's message
                    own[n].is_new = False
            group.outcome = own


def _parts(groups: Sequence[Group]) -> list[list[Group]]:
    """Divide groups of which one cannot be stored. An idempotency key is the most common reason."""
    without_keys = [group for group in groups if not group.has_keys]
    if len(without_keys) in (0, len(groups)):
        return [[group] for group in groups]
    return [*([group] for group in groups if group.has_keys), without_keys]
