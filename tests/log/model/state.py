"""The state of the model: the database, the processes, and the rules of the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Rules:
    """The protocol's rules. A test switches each one off, and checks that the search finds a broken promise."""

    looks_again: bool = True  # rule 4
    looks_again_after_failure: bool = True  # rule 4, if the transaction failed
    looks_again_after_nothing: bool = True  # rule 4, if there was nothing to number
    looks_after_release: bool = True  # False: looks just before the commit
    tries_after_commit: bool = True  # rule 3; False: a hook decides before the commit
    holds_until_commit: bool = True  # rule 2; False: releases the lock as soon as the positions are given
    takes_lock: bool = True  # rule 1; False: numbers without the lock
    fresh_snapshot: bool = True  # rule 1; False: uses a snapshot that is older than the lock
    only_committed: bool = True  # rule 1; False: numbers the rows of open transactions as well
    numbers_the_others: bool = True  # rule 1; False: `own` gives a position to its own message only
    in_order_of_ids: bool = True  # rule 1
    head_is_newest: bool = True  # False: the head moves by the number of rows that were updated
    looks_after_each: bool = True  # rule 4; False: stops after two attempts in a row that had nothing to number
    attempts: int = 0  # the maximum number of attempts to take the lock; 0 means no bound


class Row(NamedTuple):
    """A committed message.

    `position` is 0 until the message is numbered. `earlier` contains the ids of the committed messages that had no
    position when this publish began. They must come before this message.
    """

    id: int
    position: int
    earlier: tuple[int, ...]


class Process(NamedTuple):
    """A process, and its open transaction if it has one."""

    kind: str
    at: str = "start"  # the next step
    holds: bool = False  # holds the head's lock
    row: int = 0  # the id of the message that it has inserted
    open: bool = False  # the message is not committed yet
    earlier: tuple[int, ...] = ()  # see Row
    snapshot: tuple[int, ...] = ()  # the ids of the rows that it is going to number
    given: tuple[tuple[int, int], ...] = ()  # (id, position), visible to others after the commit
    head: int = 0  # the new head, visible after the commit
    attempts: int = 0
    empty: int = 0  # consecutive attempts that found nothing to number; counted only without looks_after_each


class State(NamedTuple):
    """The committed data, and the state of each process."""

    head: int
    rows: tuple[Row, ...]
    ids: int  # the sequence of ids: each insert takes one, and none is reused
    processes: tuple[Process, ...]
    deleted: int = 0  # the number of deleted messages

    @property
    def locked(self) -> bool:
        return any(process.holds for process in self.processes)

    @property
    def unnumbered(self) -> tuple[int, ...]:
        return tuple(row.id for row in self.rows if not row.position)
