"""The state of the model: the database, the processes, and the rules that these follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Rules:
    """The protocol's rules. A test changes one of them, to see that the search finds what it then breaks."""

    looks_again: bool = True  # rule 4
    looks_again_after_failure: bool = True  # rule 4, if the transaction failed
    looks_again_after_nothing: bool = True  # rule 4, if there was nothing to number
    looks_after_release: bool = True  # False: it looks just before it commits
    tries_after_commit: bool = True  # rule 3; False: a hook decides before the commit
    holds_until_commit: bool = True  # rule 2; False: released as soon as the positions are given
    takes_lock: bool = True  # rule 1; False: numbers without the lock
    fresh_snapshot: bool = True  # rule 1; False: numbers with a snapshot from before it had the lock
    only_committed: bool = True  # rule 1; False: numbers the rows of open transactions as well
    numbers_the_others: bool = True  # rule 1; False: `own` gives a position to its own message only
    in_order_of_ids: bool = True  # rule 1
    head_is_newest: bool = True  # False: the head moves by the number of rows that were updated
    looks_after_each: bool = True  # rule 4; False: stops after two attempts in a row that had nothing to number
    attempts: int = 0  # how often a process tries the lock at most; 0 is unbounded


class Row(NamedTuple):
    """A committed message. `position` is 0 as long as it has none. `earlier`: the ids of the messages that were
    committed, and had no position yet, when this publish began: they must come before it."""

    id: int
    position: int
    earlier: tuple[int, ...]


class Process(NamedTuple):
    """A process, and its open transaction if it has one."""

    kind: str
    at: str = "start"  # the next step
    holds: bool = False  # the head's lock
    row: int = 0  # the id of the message that it has inserted
    open: bool = False  # the message is not committed yet
    earlier: tuple[int, ...] = ()  # see Row
    snapshot: tuple[int, ...] = ()  # the rows that it is going to number
    given: tuple[tuple[int, int], ...] = ()  # (id, position), visible to others after the commit
    head: int = 0  # the new head, visible after the commit
    attempts: int = 0
    empty: int = 0  # attempts in a row that had nothing to number; counted for a broken rule


class State(NamedTuple):
    """What is committed, and what each process is doing."""

    head: int
    rows: tuple[Row, ...]
    ids: int  # the sequence: given out at the insert, and never taken back
    processes: tuple[Process, ...]
    deleted: int = 0  # how many messages were deleted

    @property
    def locked(self) -> bool:
        return any(process.holds for process in self.processes)

    @property
    def unnumbered(self) -> tuple[int, ...]:
        return tuple(row.id for row in self.rows if not row.position)
