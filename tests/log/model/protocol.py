"""The publishing protocol on PostgreSQL, step by step. test_protocol.py explores every order of these steps.

The problem: positions must follow commit order without holes, so one transaction at a time can give them. If each
publisher held the head's lock until its own commit had reached the disk, publishers would commit one after the other.
Therefore a publisher that finds the lock taken does not wait for it. It commits its message without a position, and
leaves the numbering to the transaction that holds the lock.

The rules:

1. Only the holder of the head's lock (`SELECT … FOR UPDATE` on LogHead's row) gives positions. It numbers every
   committed message that has no position, in the order of the ids, and moves the head. The numbering statement begins
   after the lock was taken, so its snapshot contains every earlier commit.
2. The lock is released at the end of the transaction. PostgreSQL releases it at the moment when the commit becomes
   visible, because a row lock is the id of a running transaction.
3. A publisher that leaves its message to the holder first commits, then tries the lock. If the lock was taken at that
   time, the holder had not released it yet.
4. A process that has held the lock looks for unnumbered messages once more after it has released the lock, however its
   transaction ended. If there are any, it tries the lock again (rule 3 applies to this attempt as well).

Why every message gets a position: take a message that was committed without one. Its publisher tried the lock after
the commit. If it got the lock, it numbered the message. If not, the holder at that time looked for messages after the
release, and therefore after the message's commit. It saw the message and tried the lock again, and the argument repeats
with the next holder. The chain ends only with a crash (or with a bound on the number of attempts), and then the next
poll numbers the message.

The steps of a process depend on its kind:

- `own`, a publish outside a transaction: try the lock first. If it is free and no message waits, insert the message
  with the next position and commit. If it is free and messages wait, number them first in the same transaction, or
  insert the message without a position. If it is taken, insert the message without a position. (Inserting without
  trying the lock is also correct, and is explored too.) After an insert without a position, commit, then try the lock
  until the message has its position.
- `atomic`, inside the caller's transaction: insert; after the caller's commit a hook tries the lock once.
- `keyed`, a group with idempotency keys or a large group: insert, then try the lock in the same transaction. If it is
  free, number and commit. If it is taken, commit, then continue like `own`.
- `inside`, a transaction that needs its position before it commits (broadcasts, generations): insert, wait for the
  lock, number, commit.
- `poller`: look for a committed message without a position. If there is one, try the lock once.
- `deleter`: a transaction, such as an administrator's, that deletes a message without a position.

Every process can crash before each of its steps. The database notices that later: until then, the transaction stays
open and keeps its lock. A transaction can also fail and be rolled back while its process continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.log.model.state import Process, Row, Rules, State


def start(*kinds: str) -> State:
    return State(0, (), 0, tuple(Process(kind, BEGINNINGS.get(kind, "start")) for kind in kinds))


def step(state: State, me: Process, rules: Rules) -> Iterator[State]:
    """Yield all states to which the next step of a process can lead. A process that is done or waits has no step."""
    if me.at in STEPS:
        yield from STEPS[me.at](state, me, rules)


def crash(state: State, me: Process) -> Iterator[State]:
    """The process crashes. If it holds the lock, the next step is `vanished`: until then, the lock stays taken.

    A process is on duty if it must number messages, of other processes or its own: while it holds the lock, and from
    its commit until it has looked for messages without a position.
    """
    if me.at not in STEPS or me.at.startswith(("start", "vanished")):
        return
    on_duty = me.holds or bool(me.given) or me.at in AFTER_COMMIT
    # A transaction without the lock blocks no other process, so that it does not matter when the database notices.
    yield _go(state, me, "vanished" if me.holds else "crashed on duty" if on_duty else "crashed")


def _go(state: State, me: Process, at: str, **changes: object) -> State:
    """Return the state after a step of the process `me`, with `changes` to its fields."""
    processes = list(state.processes)
    processes.remove(me)
    if at in ENDS:
        processes.append(Process(me.kind, at))
    else:
        processes.append(me._replace(at=at, **changes))  # type: ignore[arg-type]
    return state._replace(processes=tuple(processes))


# --- Publishers: up to the commit -------------------------------------------------------------------------------------


def _start(state: State, me: Process, rules: Rules) -> Iterator[State]:
    unnumbered = state.unnumbered
    if me.kind == "own":
        yield _go(state, me, "insert", earlier=unnumbered)
        if not state.locked or not rules.takes_lock:
            yield _go(state, me, "number", holds=rules.takes_lock, earlier=unnumbered)
            if unnumbered:
                yield _go(state, me, "insert", holds=rules.takes_lock, earlier=unnumbered)
    elif me.kind == "atomic":
        leaves = state.locked and not rules.tries_after_commit
        yield _inserted(state, me, "commit and stop" if leaves else "commit", unnumbered)
    elif me.kind == "keyed":
        yield _inserted(state, me, "try inside", unnumbered)
    else:
        snapshot = () if rules.fresh_snapshot else unnumbered
        yield _inserted(state, me, "wait inside", unnumbered, snapshot)


def _start_poll(state: State, me: Process, rules: Rules) -> Iterator[State]:
    yield from _look(state, me, rules)


def _start_delete(state: State, me: Process, rules: Rules) -> Iterator[State]:
    # A delete would wait for the transaction that has updated the row.
    updated = {id for process in state.processes for id, _ in process.given}
    for id in state.unnumbered:
        if id not in updated:
            yield _go(state, me, "delete", row=id)
    yield _go(state, me, "done")


def _insert(state: State, me: Process, rules: Rules) -> Iterator[State]:
    yield _inserted(state, me, "commit", me.earlier)


def _inserted(state: State, me: Process, at: str, earlier: tuple[int, ...], snapshot: tuple[int, ...] = ()) -> State:
    """Insert a message without a position, in a transaction that stays open."""
    state = state._replace(ids=state.ids + 1)
    return _go(state, me, at, row=state.ids, open=True, earlier=earlier, snapshot=snapshot)


def _try_inside(state: State, me: Process, rules: Rules) -> Iterator[State]:
    if state.locked and rules.takes_lock:
        yield _go(state, me, "commit")
    else:
        yield _go(state, me, "number", holds=rules.takes_lock)


def _wait_inside(state: State, me: Process, rules: Rules) -> Iterator[State]:
    if not state.locked or not rules.takes_lock:
        yield _go(state, me, "number", holds=rules.takes_lock)


# --- Numbering --------------------------------------------------------------------------------------------------------


def _number(state: State, me: Process, rules: Rules) -> Iterator[State]:
    """Take the numbering statement's snapshot: committed rows without a position, and the transaction's own row."""
    snapshot = state.unnumbered if rules.fresh_snapshot else me.snapshot
    if me.open:
        snapshot = (*snapshot, me.row)
    if not rules.only_committed:
        others = (process.row for process in state.processes if process.open and process is not me)
        snapshot = (*snapshot, *others)
    if not rules.numbers_the_others and me.kind == "own" and not me.row:
        snapshot = ()
    snapshot = tuple(sorted(set(snapshot), reverse=not rules.in_order_of_ids))
    numbering = _go(state, me, "place", snapshot=snapshot)
    if any(process.kind == "deleter" for process in state.processes):
        yield numbering
    else:  # no other step can matter in between, because only the holder gives positions
        yield from _place(numbering, me._replace(at="place", snapshot=snapshot), rules)


def _place(state: State, me: Process, rules: Rules) -> Iterator[State]:
    """Update the rows of the snapshot.

    The statement waits for a transaction that deletes one of these rows, and skips the deleted rows. This is the only
    way in which a position can stay unused.
    """
    if any(process.at == "delete" and process.row in me.snapshot for process in state.processes):
        return
    there = {row.id for row in state.rows} | {process.row for process in state.processes if process.open}
    planned = [(id, state.head + n) for n, id in enumerate(me.snapshot, 1)]
    given = tuple((id, position) for id, position in planned if id in there)
    head = max((position for _, position in given), default=state.head)
    if not rules.head_is_newest:
        head = state.head + len(given)
    if me.kind == "own" and not me.row:
        yield _go(state, me, "insert numbered", given=given, head=head, snapshot=())
    elif given:
        at = "commit" if rules.looks_after_release else "look early"
        holds = me.holds and rules.holds_until_commit
        yield _go(state, me, at, given=given, head=head, snapshot=(), holds=holds)
    else:
        yield _go(state, me, "roll back")  # an empty numbering is not committed


def _insert_numbered(state: State, me: Process, rules: Rules) -> Iterator[State]:
    id, position = state.ids + 1, me.head + 1
    holds = me.holds and rules.holds_until_commit
    state = state._replace(ids=id)
    at = "commit" if rules.looks_after_release else "look early"
    yield _go(state, me, at, row=id, open=True, given=(*me.given, (id, position)), head=position, holds=holds)


def _look_early(state: State, me: Process, rules: Rules) -> Iterator[State]:
    left = set(state.unnumbered) - {id for id, _ in me.given}
    yield _go(state, me, "commit" if left else "commit and stop")


# --- The end of a transaction -----------------------------------------------------------------------------------------


def _commit(state: State, me: Process, rules: Rules) -> Iterator[State]:
    """Commit or roll back. A commit makes rows, positions and head visible and releases the lock in one step."""
    rows = {row.id: row for row in state.rows}
    if me.open:
        rows.setdefault(me.row, Row(me.row, 0, me.earlier))
    for id, position in me.given:
        earlier = rows[id].earlier if id in rows else ()
        rows[id] = Row(id, position, earlier)
    committed = state._replace(rows=tuple(rows[id] for id in sorted(rows)), head=me.head if me.given else state.head)
    after = "wait"
    if me.at == "commit and stop":
        after = "done"
    elif me.given or me.holds:  # the process has held the lock
        after = "look" if rules.looks_again else "done"
    elif me.kind == "atomic":
        after = "try"
    yield _go(committed, me, after, open=False, given=(), head=0, holds=False)
    yield from _roll_back(state, me, rules)


def _roll_back(state: State, me: Process, rules: Rules) -> Iterator[State]:
    """Roll back a transaction that failed or has nothing to commit. The process continues."""
    looks = rules.looks_again and (rules.looks_again_after_failure if me.given else rules.looks_again_after_nothing)
    held = me.holds or me.given
    empty = 0 if rules.looks_after_each or me.given else me.empty + 1
    looks = looks and empty < 2
    after = "look" if held and looks else "done"
    yield _go(state, me, after, open=False, given=(), head=0, holds=False, snapshot=(), empty=empty)


def _vanished(state: State, me: Process, rules: Rules) -> Iterator[State]:
    """The database notices that the process has crashed, and rolls back its transaction."""
    yield _go(state, me, "crashed on duty")


def _delete(state: State, me: Process, rules: Rules) -> Iterator[State]:
    rows = tuple(row for row in state.rows if row.id != me.row)
    yield _go(state._replace(rows=rows, deleted=state.deleted + 1), me, "done")
    yield _go(state, me, "done")


# --- After the commit -------------------------------------------------------------------------------------------------


def _look(state: State, me: Process, rules: Rules) -> Iterator[State]:
    """Look for a committed message without a position. If there is one, try the lock next."""
    if not state.unnumbered:
        yield _go(state, me, "done")
    elif rules.attempts and me.attempts >= rules.attempts:
        yield _go(state, me, "gave up")
    else:
        # Only the mutant without fresh_snapshot uses this snapshot. Otherwise, a numbering takes its own.
        yield _go(state, me, "try", snapshot=() if rules.fresh_snapshot else state.unnumbered)


def _try(state: State, me: Process, rules: Rules) -> Iterator[State]:
    """Try the lock once. If it is taken, its holder numbers the messages."""
    if state.locked and rules.takes_lock:
        yield _go(state, me, "done")
    else:
        yield _go(state, me, "number", **_got(state, me, rules))


def _wait(state: State, me: Process, rules: Rules) -> Iterator[State]:
    """Try the lock until it is free, or until another holder has numbered the message."""
    if not state.locked or not rules.takes_lock:
        yield _go(state, me, "number", **_got(state, me, rules))
    if me.row not in state.unnumbered:
        yield _go(state, me, "done")


def _got(state: State, me: Process, rules: Rules) -> dict[str, object]:
    # Attempts are counted only if they are bounded. Otherwise, equal states would differ by their number.
    attempts = me.attempts + 1 if rules.attempts else 0
    return {"holds": rules.takes_lock, "attempts": attempts}


STEPS: dict[str, Callable[[State, Process, Rules], Iterator[State]]] = {
    "start": _start,
    "start to poll": _start_poll,
    "start to delete": _start_delete,
    "insert": _insert,
    "try inside": _try_inside,
    "wait inside": _wait_inside,
    "number": _number,
    "place": _place,
    "insert numbered": _insert_numbered,
    "look early": _look_early,
    "commit": _commit,
    "commit and stop": _commit,
    "roll back": _roll_back,
    "vanished": _vanished,
    "delete": _delete,
    "look": _look,
    "try": _try,
    "wait": _wait,
}
BEGINNINGS = {"poller": "start to poll", "deleter": "start to delete"}
ENDS = {"done", "gave up", "crashed", "crashed on duty"}
EXCUSED = {"gave up", "crashed on duty"}  # after one of these, messages can be left to the next poll
AFTER_COMMIT = {"look", "try", "wait"}
