"""A breadth-first search through all states of the protocol, and the promises that each state must keep."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Hashable, Iterator

from tests.log.model.protocol import ENDS, EXCUSED, crash, start, step
from tests.log.model.state import Rules, State


class Violation(AssertionError):
    """A broken promise, with the shortest sequence of steps that leads to it."""

    def __init__(self, kind: str, path: list[State]) -> None:
        self.kind = kind
        lines = [f"{kind}; the shortest way to it:"]
        for before, after in itertools.pairwise(path):
            for moved in Counter(before.processes) - Counter(after.processes):
                lines.append(f"  {moved.kind}: {moved.at} -> head {after.head}, {[row[:2] for row in after.rows]}")
        super().__init__("\n".join(lines))


def search(*kinds: str, rules: Rules | None = None, crashes: bool = True) -> int:
    """Visit every state that processes of these kinds can reach, and return the number of states.

    Raise Violation if a state breaks a promise.
    """
    rules = rules or Rules()
    first = start(*kinds)
    came_from: dict[State, State | None] = {first: None}
    seen = {_essence(first)}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        can_move = False
        for after, is_crash in _following(state, rules, crashes):
            can_move = can_move or not is_crash
            essence = _essence(after)
            if kind := _broken(state, after):
                raise Violation(kind, [*_path(state, came_from), after])
            if essence not in seen:
                seen.add(essence)
                came_from[after] = state
                waiting.append(after)
        if not can_move and (kind := _broken_at_rest(state)):
            raise Violation(kind, _path(state, came_from))
    return len(seen)


def _essence(state: State) -> Hashable:
    """Return a key for equivalent states, of which only one is visited.

    Processes of one kind are interchangeable, and only the order of the ids matters. Messages with a position and ended
    processes do not affect the future, so that positions are relative to the head.
    """
    unnumbered = state.unnumbered
    ids = {*unnumbered}
    for process in state.processes:
        if process.at not in ENDS:
            ids.update(process.snapshot, (id for id, _ in process.given), (process.row,) if process.open else ())
    rank = {id: n for n, id in enumerate(sorted(ids), 1)}

    def ranks(some: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(rank[id] for id in some if id in rank)

    rows = tuple(ranks((row.id, *row.earlier)) for row in state.rows if not row.position)
    processes = []
    for process in state.processes:
        kind, at, holds, row, is_open, earlier, snapshot, given, head, attempts, empty = process
        if at in ENDS:
            continue
        if not is_open and (row or kind == "poller"):  # after the commit, the kind does not matter
            kind, row = "", rank.get(row, 0) if at in ("wait", "delete") else 0
        else:
            row = rank.get(row, 0)
        positions = tuple((rank[id], position - state.head) for id, position in given)
        new_head = head and head - state.head
        processes.append(
            (at, kind, holds, row, is_open, ranks(earlier), ranks(snapshot), positions, new_head, attempts, empty)
        )
    excused = any(process.at in EXCUSED for process in state.processes)
    numbered = len(state.rows) - len(unnumbered)
    return rows, tuple(sorted(processes)), excused, state.deleted - (state.head - numbered)


def _following(state: State, rules: Rules, crashes: bool) -> Iterator[tuple[State, bool]]:
    for process in dict.fromkeys(state.processes):
        for after in step(state, process, rules):
            yield after, False
        for after in crash(state, process) if crashes else ():
            yield after, True


def _broken(before: State, after: State) -> str:
    """Return the promise that a step breaks, or "". Every state is checked, because a reader can read at any time."""
    if before.rows == after.rows and before.head == after.head:
        return ""
    had = {row.id: row.position for row in before.rows}
    positions = {row.id: row.position for row in after.rows}
    own = {process.row for process in before.processes if process.open}
    still = {process.row for process in after.processes if process.open}
    for id, position in positions.items():
        if id in still or (id not in had and id not in own):
            return "a position for a message that is not committed"
        if had.get(id) and position != had[id]:
            return "a position changed"
        if position and not had.get(id) and position <= before.head:
            return "a new message at or below a head that readers have seen"
    given = [position for position in positions.values() if position]
    if len(given) != len(set(given)):
        return "a position was given twice"
    if after.head < max(given, default=0):
        return "the head is behind the newest position"
    # If a message was deleted while it was being numbered, its position stays unused.
    if after.head - len(given) > after.deleted:
        return "a hole"
    for row in after.rows:
        if row.position and any(positions.get(id) == 0 or positions.get(id, 0) > row.position for id in row.earlier):
            return "before a message that was committed when its publish began"
    return ""


def _broken_at_rest(state: State) -> str:
    """Return the promise that a state breaks if no process can take a step any more, or ""."""
    if any(process.at not in ENDS for process in state.processes):
        return "deadlock"
    if not state.unnumbered:
        return ""
    if not any(process.at in EXCUSED for process in state.processes):
        return "left without a position"
    polled = state._replace(processes=start("poller").processes)
    while following := list(step(polled, polled.processes[0], Rules())):
        polled = following[0]
        if broken := _broken(state, polled):
            return f"{broken}, at the next poll"
    return "not numbered by the next poll" if polled.unnumbered else ""


def _path(state: State, came_from: dict[State, State | None]) -> list[State]:
    path = [state]
    while (before := came_from[path[-1]]) is not None:
        path.append(before)
    return path[::-1]
