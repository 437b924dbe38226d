"""The judge: what the clients wrote down, against what the database's own audit says was in the log. Pure functions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.listeners import Record, Reset
from tests.chaos.publishers import ALONE, COMMITS, KEYED, ROLLS_BACK

# What the texts of the publishers say of themselves: see tests.chaos.publishers.
TEXT = re.compile(r"(?P<name>[\w.-]+):(?P<number>\d+):(?P<fate>[a-z ]+)")

# A server holds 200 streams, their queues and the window, and for a moment what a flood of 15 MB makes of itself. What
# it grows by beyond this, it keeps for nothing. (Calm, it grows by a tenth of that.)
MOST_GROWTH_BYTES = 80_000_000


@dataclass(frozen=True, slots=True)
class Published:
    """A message as the audit has it: who gave it its position, and when."""

    id: int
    position: int
    channel: str
    digest: str
    text: str
    by: str
    at: float

    def __str__(self) -> str:
        return f"{self.position} on {self.channel} ({self.text!r}, positioned {self.at:.3f} by {self.by})"


@dataclass
class Audit:
    """What the log has held, pruned or not: all that was given a position, in the order in which it was.

    `horizon`: the head that the clients were given the time to come to, if there was one.
    """

    published: list[Published]
    pruned: dict[int, float]
    horizon: int | None = None
    by_channel: dict[str, list[Published]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for message in sorted(self.published, key=lambda message: message.position):
            self.by_channel.setdefault(message.channel, []).append(message)

    @property
    def newest(self) -> dict[str, int]:
        return {channel: messages[-1].position for channel, messages in self.by_channel.items()}


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken promise: its kind, and the story."""

    kind: str
    story: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the publishers know of their texts: `returned`, those whose publishing was answered with success;
    `committed`, those whose own transactions have left another row beside them."""

    returned: Collection[str] = ()
    committed: Collection[str] = ()


def judge(audit: Audit, records: Sequence[Record], outcome: Outcome | None = None) -> list[Fault]:
    """All faults of a run."""
    clients = (fault for record in records for fault in _client(audit, record))
    return [*_positions(audit), *_publishing(audit, outcome or Outcome()), *_order(audit), *clients]


def _positions(audit: Audit) -> Iterator[Fault]:
    before = 0
    for message in sorted(audit.published, key=lambda message: message.position):
        if message.position == before:
            yield Fault("position given twice", f"{message}")
        elif message.position != before + 1:
            yield Fault("hole", f"after position {before}, before {message}")
        before = message.position
    first: dict[int, Published] = {}
    for message in audit.published:
        if message.id in first:
            yield Fault("two positions", f"{first[message.id]}, and then {message}")
        first.setdefault(message.id, message)


def _publishing(audit: Audit, outcome: Outcome) -> Iterator[Fault]:
    """Each text is published once at most: what was answered, and what was committed, once; nothing else that belongs
    to a transaction."""
    times = Counter(message.text for message in audit.published if TEXT.fullmatch(message.text))
    for text in {*outcome.returned, *outcome.committed} - times.keys():
        yield Fault("published, and not in the log", repr(text))
    committed = set(outcome.committed)
    for text, count in times.items():
        found = TEXT.fullmatch(text)
        fate = found["fate"] if found else ""
        if count > 1:
            yield Fault("published once, and in the log more often", f"{text!r}, {count} times")
        if fate == ROLLS_BACK or (fate == COMMITS and text not in committed):
            yield Fault("ghost", f"{text!r} is in the log, and its transaction is not")


def _order(audit: Audit) -> Iterator[Fault]:
    """Who publishes one after the other has the positions in that order."""
    before: dict[str, Published] = {}
    for message in sorted(audit.published, key=lambda message: message.position):
        found = TEXT.fullmatch(message.text)
        if found and found["fate"] in (ALONE, COMMITS, KEYED):
            earlier = before.get(found["name"])
            if earlier is not None and _number(earlier.text) > int(found["number"]):
                yield Fault("published out of order", f"{earlier}, and then {message}")
            before[found["name"]] = message


def _number(text: str) -> int:
    return int(text.split(":")[1])


def silent(audit: Audit, names: Collection[str]) -> Iterator[Fault]:
    """Faults of those who were to publish and have not: a run without them shows nothing."""
    heard = {message.text.split(":")[0].split(".")[0] for message in audit.published}
    for name in names:
        if name not in heard:
            yield Fault("published nothing", name)


def _client(audit: Audit, record: Record) -> Iterator[Fault]:
    if record.start is None:
        yield Fault("never served", f"{record.name} has had no stream at all")
        return
    known = {message.position: message for channel in record.channels for message in audit.by_channel.get(channel, [])}
    highest = record.start
    had = set()
    for seen in record.seen:
        if seen.position in had:
            yield Fault("repeated", _story(record, seen.position, known))
        elif seen.position <= highest:
            yield Fault("out of order", _story(record, seen.position, known))
        if seen.position not in known or known[seen.position].digest != seen.digest:
            yield Fault("not what was published", _story(record, seen.position, known))
        had.add(seen.position)
        highest = max(highest, seen.position)
    for reset in record.resets:
        gone = (position for position in known if position > reset.cursor and position in audit.pruned)
        if reset.reason != "pruned" or not any(audit.pruned[position] <= reset.at for position in gone):
            yield Fault("false reset", f"{record.name}, which had had up to {highest}: {reset}")
    horizon = max(known, default=0) if audit.horizon is None else audit.horizon
    for position, message in known.items():
        if record.start < position <= horizon and position not in had:
            if position not in audit.pruned:
                yield Fault("lost", _story(record, position, known))
            elif not any(_explains(reset, record, position, audit.pruned[position]) for reset in record.resets):
                yield Fault(
                    "silent gap", _story(record, position, known) + f"; pruned {audit.pruned[message.position]:.3f}"
                )


def _explains(reset: Reset, record: Record, position: int, pruned_at: float) -> bool:
    """Whether the reset told of this message's going: it was gone by then, and its place was still to come."""
    had_before = max((seen.position for seen in record.seen[: reset.before]), default=0)
    return reset.reason == "pruned" and pruned_at <= reset.at and max(reset.cursor, had_before) < position


def _story(record: Record, position: int, known: Mapping[int, Published]) -> str:
    """How it went: when the message was published, and which connections the client had around that time."""
    lines = [f"{record.name} on {', '.join(record.channels)}, from {record.start}: {known.get(position, position)}"]
    numbers = {seen.connection for seen in record.seen if seen.position == position}
    before = [seen for seen in record.seen if seen.position < position]
    after = [seen for seen in record.seen if seen.position > position]
    for what, seen in (("had before it", before[-1:]), ("had after it", after[:1])):
        for one in seen:
            lines.append(f"  {what}: {one.position} at {one.at:.3f}, over connection {one.connection}")
            numbers |= {one.connection}
    if numbers:
        shown = range(max(1, min(numbers) - 1), min(len(record.connections), max(numbers) + 1) + 1)
        lines += [f"  connection {number}: {record.connections[number - 1]}" for number in list(shown)[:8]]
    lines += [f"  {reset}" for reset in record.resets[-3:]]
    return "\n".join(lines)


def growth(first: Mapping[str, int], most: Mapping[str, int]) -> Iterator[Fault]:
    """Faults of processes that hold more memory than their streams explain."""
    for name, rss in most.items():
        if (grown := rss - first.get(name, rss)) > MOST_GROWTH_BYTES:
            yield Fault("grown", f"{name} by {grown // 1_000_000} MB")
