"""The judge finds each kind of fault in runs of a few messages, and finds none in a correct run."""

from __future__ import annotations

import dataclasses

import pytest

from tests.system.chaos.audit import Audit, Loss, Published
from tests.system.chaos.judge import Outcome, judge, silent
from tests.system.chaos.listeners import Connection, Record, Reset, Seen


def audit(*positions: int, pruned: dict[int, float] | None = None, texts: tuple[str, ...] = ()) -> Audit:
    published = [
        Published(number, n, "a" if n % 2 else "b", f"digest {n}", text, "publisher", n)
        for number, (n, text) in enumerate(zip(positions, texts or [f"text {n}" for n in positions], strict=True))
    ]
    return Audit(published, pruned or {})


def client(*positions: int, channels: tuple[str, ...] = ("a", "b"), resets: tuple[Reset, ...] = ()) -> Record:
    seen = [Seen(n, f"digest {n}", n + 0.5, 1) for n in positions]
    return Record("client", list(channels), 0, seen, list(resets), [Connection("server-0", "", 0.0)])


def kinds(log: Audit, record: Record) -> list[str]:
    return [fault.kind for fault in judge(log, [record])]


@pytest.mark.parametrize("positions", [(1, 2, 3, 4), ()])
def test_who_has_had_everything_once_and_in_order_is_content(positions: tuple[int, ...]) -> None:
    assert kinds(audit(*positions), client(*positions)) == []


def test_other_channels_do_not_count() -> None:
    assert kinds(audit(1, 2, 3), client(1, 3, channels=("a",))) == []


def test_each_kind_of_fault_is_seen() -> None:
    assert kinds(audit(1, 2, 3), client(1, 3)) == ["lost"]
    assert kinds(audit(1, 2, 3), client(1, 2, 2, 3)) == ["repeated"]
    assert kinds(audit(1, 2, 3), client(1, 3, 2)) == ["out of order"]
    assert kinds(audit(1, 3), client(1, 3)) == ["hole"]
    assert kinds(audit(1, 2, 2), client(1, 2)) == ["position given twice"]
    assert kinds(audit(1, 2), client(1, 2, 3)) == ["not what was published"]
    twice = audit(1, 2)
    twice.published[1] = dataclasses.replace(twice.published[1], id=twice.published[0].id)
    assert kinds(twice, client(1, 2)) == ["two positions"]
    assert kinds(audit(1), client(1, resets=(Reset("unknown-id", 1, 1, 2.0),))) == ["false reset"]


PUBLISHED = ("one.0:1:alone", "two.0:1:commits", "one.0:2:alone", "post-1:1:keyed")


def publishing(texts: tuple[str, ...], returned: tuple[str, ...] = (), committed: tuple[str, ...] = ()) -> list[str]:
    log = audit(*range(1, len(texts) + 1), texts=texts)
    return [fault.kind for fault in judge(log, [], Outcome(returned, committed))]


def test_what_was_answered_and_committed_is_in_the_log_once() -> None:
    assert publishing(PUBLISHED, PUBLISHED, ("two.0:1:commits",)) == []
    assert publishing(PUBLISHED, (), ("two.0:1:commits",)) == []  # killed before publish() returned
    assert publishing(PUBLISHED, ("one.0:3:alone",), ("two.0:1:commits",)) == ["published, and not in the log"]
    assert publishing((), (), ("two.0:1:commits",)) == ["published, and not in the log"]
    twice = ("post-1:1:keyed", "post-1:1:keyed")
    assert publishing(twice) == ["published once, and in the log more often"]
    assert [fault.kind for fault in judge(audit(1, 2, texts=twice, pruned={1: 1.5}), [], Outcome())] == []
    assert publishing(("one.0:1:alone", "one.0:1:alone")) == ["published once, and in the log more often"]


def test_what_was_rolled_back_is_a_ghost_and_so_is_a_part_of_a_transaction() -> None:
    assert publishing(("two.0:1:rolls back",)) == ["ghost"]
    assert publishing(("two.0:1:commits",)) == ["ghost"]


def test_who_publishes_one_after_the_other_is_in_that_order() -> None:
    assert publishing(("one.0:2:alone", "two.0:1:alone", "one.0:1:alone")) == ["published out of order"]
    assert publishing(("group-0.1:2:grouped", "group-0.1:1:grouped")) == []


def test_who_has_published_nothing_is_named() -> None:
    assert [fault.story for fault in silent(audit(1, texts=("one.0:1:alone",)), ["one", "two"])] == ["two"]


def test_reset_needs_something_that_was_pruned_by_then_and_that_the_client_had_not_had() -> None:
    reset = Reset("pruned", 1, 1, 11.0)
    assert kinds(audit(1, 2, pruned={2: 10.0}), client(1, resets=(reset,))) == []
    for pruned in ({}, {1: 10.0}, {2: 12.0}):
        assert kinds(audit(1, 2, pruned=pruned), client(1, 2, resets=(reset,))) == ["false reset"]
    assert kinds(audit(1, 2, pruned={2: 10.0}), client(1, channels=("a",), resets=(reset,))) == ["false reset"]


def test_what_came_after_the_clients_were_sent_home_is_not_lost() -> None:
    log = audit(1, 2, 3)
    assert kinds(dataclasses.replace(log, horizon=2), client(1, 2)) == []
    assert kinds(dataclasses.replace(log, horizon=3), client(1, 2)) == ["lost"]


def test_a_message_that_was_pruned_needs_a_reset_that_came_after_and_in_its_place() -> None:
    log = audit(1, 2, 3, 4, pruned={2: 10.0, 3: 10.0})
    assert kinds(log, client(1, 4)) == ["silent gap", "silent gap"]
    assert kinds(log, client(1, 4, resets=(Reset("pruned", 1, 1, 11.0),))) == []
    too_early, too_late, past_one = Reset("pruned", 1, 1, 9.0), Reset("pruned", 4, 2, 11.0), Reset("pruned", 2, 1, 11.0)
    assert kinds(log, client(1, 4, resets=(too_early,))) == ["false reset", "silent gap", "silent gap"]
    assert kinds(log, client(1, 4, resets=(too_late,))) == ["false reset", "silent gap", "silent gap"]
    assert kinds(log, client(1, 4, resets=(past_one,))) == ["silent gap"]


def test_the_story_names_the_message_its_publisher_and_the_connections() -> None:
    [fault] = judge(audit(1, 2, 3), [client(1, 3)])
    for part in ("text 2", "publisher", "server-0", "had before it: 1", "had after it: 3"):
        assert part in fault.story


def test_message_stays_until_enough_newer_ones_are_there() -> None:
    log = dataclasses.replace(audit(1, 3, 5, 7, pruned={1: 5.5}), epochs=[(1, 2), (3, 4), (5, 6)], kept=2)
    assert kinds(log, client(1, 3, 5, 7)) == []
    for kept, at in ((3, 5.5), (2, 4.5)):
        early = dataclasses.replace(log, pruned={1: at}, kept=kept)
        assert kinds(early, client(1, 3, 5, 7)) == ["pruned too early"]


# --- A restored copy --------------------------------------------------------------------------------------------------

RESTORED = Reset("unknown-id", 4, 3, 7.5)


def restored() -> Audit:
    """A log with positions 1 to 4 that was restored to head 2. A new epoch starts at 100, with two more messages."""
    old = audit(1, 2, 3, 4, texts=tuple(f"one:{n}:alone" for n in (1, 2, 3, 4))).published
    new = audit(1, 2, 101, 102, texts=tuple(f"one:{n}:alone" for n in (1, 2, 101, 102)))
    loss = Loss(7.0, 2, 4, old[2:], {}, {message.text for message in old[2:]})
    return dataclasses.replace(new, epochs=[(2, 100)], losses=[loss])


def test_client_before_the_fork_goes_on_exactly() -> None:
    log = restored()
    assert kinds(log, client(1, 2, 101, 102)) == []
    assert kinds(log, client(1, 2, 102)) == ["lost"]
    assert kinds(log, client(1, 2, 101, 102, resets=(Reset("unknown-id", 2, 2, 7.5),))) == ["false reset"]


def test_client_past_the_fork_needs_a_reset_and_then_gets_everything() -> None:
    log = restored()
    assert kinds(log, client(1, 2, 4, 1, 2, 101, 102, resets=(RESTORED,))) == []
    assert kinds(log, client(1, 3, 4, 1, 2, 101, 102, resets=(RESTORED,))) == ["lost"]
    assert kinds(log, client(1, 2, 3, 2, 101, 102, resets=(dataclasses.replace(RESTORED, cursor=3),))) == ["lost"]
    assert kinds(log, client(1, 2, 3, 101, 102)) == ["no reset"]
    early = dataclasses.replace(RESTORED, cursor=3, at=6.5)
    assert "false reset" in kinds(log, client(1, 2, 3, 1, 2, 101, 102, resets=(early,)))


def test_lost_history_takes_publishes_and_holes_with_it() -> None:
    log = restored()
    assert judge(log, [], Outcome(["one:3:alone", "one:4:alone", "one:101:alone"], [])) == []
    assert [fault.kind for fault in judge(log, [], Outcome(["one:5:alone"], []))] == ["published, and not in the log"]
    assert [fault.kind for fault in judge(dataclasses.replace(log, epochs=[]), [])] == ["hole"]
