"""The publishing protocol keeps its promises in every order of its steps, with a crash before each of them.

`python -m tests.log.model.test_protocol` searches all mixes of three publishers with a poller, which takes a minute.
"""

from __future__ import annotations

import itertools

import pytest

from tests.log.model.search import Violation, search
from tests.log.model.state import Rules

pytestmark = pytest.mark.once

PUBLISHERS = ("own", "atomic", "keyed", "inside")
PAIRS = list(itertools.combinations_with_replacement(PUBLISHERS, 2))
TRIPLES = list(itertools.combinations_with_replacement(PUBLISHERS, 3))


@pytest.mark.parametrize("publishers", PAIRS, ids="-".join)
def test_two_publishers_keep_order(publishers: tuple[str, ...]) -> None:
    search(*publishers, "poller", "poller")


@pytest.mark.parametrize(
    "publishers", [("own", "own", "own"), ("own", "own", "atomic"), ("own", "keyed", "inside")], ids="-".join
)
def test_three_publishers_keep_order(publishers: tuple[str, ...]) -> None:
    assert search(*publishers, "poller") > 1000  # fewer states would mean that the search missed most of them


@pytest.mark.parametrize("publishers", PAIRS, ids="-".join)
def test_deleted_message_leaves_order(publishers: tuple[str, ...]) -> None:
    """A message can be deleted while it is being numbered. Its position then stays unused and is not given again."""
    search(*publishers, "deleter")


def test_bounded_attempts_leave_rest_to_poll() -> None:
    search("own", "atomic", "atomic", rules=Rules(attempts=1))


ORDER = "before a message that was committed when its publish began"
SEEN = "a new message at or below a head that readers have seen"

MUTANTS = [
    ("looks_again", "own atomic", "left without a position"),
    ("looks_again_after_failure", "own atomic", "left without a position"),
    ("looks_again_after_nothing", "atomic atomic poller", "left without a position"),
    ("looks_after_each", "atomic atomic atomic poller", "left without a position"),
    ("looks_after_release", "own atomic", "left without a position"),
    ("tries_after_commit", "own atomic", "left without a position"),
    ("holds_until_commit", "own own", SEEN),
    ("takes_lock", "own own", SEEN),
    ("fresh_snapshot", "own own", ORDER),
    ("only_committed", "own own", "a position for a message that is not committed"),
    ("numbers_the_others", "own atomic", ORDER),
    ("in_order_of_ids", "own atomic", ORDER),
    ("head_is_newest", "own atomic deleter", "the head is behind the newest position"),
]


@pytest.mark.parametrize(("rule", "processes", "broken"), MUTANTS, ids=[mutant[0] for mutant in MUTANTS])
def test_broken_rule_is_found(rule: str, processes: str, broken: str) -> None:
    """Each rule is needed: without it, the search finds a broken promise and the steps that lead to it."""
    with pytest.raises(Violation) as caught:
        search(*processes.split(), rules=Rules(**{rule: False}), crashes=False)
    assert caught.value.kind == broken
    assert "the shortest way to it" in str(caught.value)


def main() -> None:
    for publishers in TRIPLES:
        print(
            f"{', '.join(publishers)}, poller: {search(*publishers, 'poller'):,} states, no promise broken", flush=True
        )


if __name__ == "__main__":
    main()
