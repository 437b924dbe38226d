"""The judge: pure functions that compare the clients' records with the database's audit of the log."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.system.chaos.audit import Audit, Loss, Published
from tests.system.chaos.listeners import Record, Reset, Seen
from tests.system.chaos.publishers import ALONE, COMMITS, KEYED, ROLLS_BACK

# The format of the publishers' texts; see tests.system.chaos.publishers.
TEXT = re.compile(r"(?P<name>[\w.-]+):(?P<number>\d+):(?P<kind>[a-z ]+)")

# A server needs memory for 200 streams, their queues and the window, and for a moment for a flood of 15 MB. Growth
# beyond this limit is a leak. (Without disruptors, it grows by a tenth of this.)
MAX_GROWTH_BYTES = 80_000_000


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken promise: its kind, and a report of the events around it."""

    kind: str
    story: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The texts whose publishing succeeded.

    `returned` are the texts whose publish call returned. `committed` are those whose transaction has also committed a
    row of its own.
    """

    returned: Collection[str] = ()
    committed: Collection[str] = ()


def judge(audit: Audit, records: Sequence[Record], outcome: Outcome | None = None) -> list[Fault]:
    """Return all faults of a run."""
    clients = (fault for record in records for fault in _client(audit, record))
    published = _publishing(audit, outcome or Outcome())
    return [*_positions(audit), *published, *_order(audit), *_pruning(audit), *clients]


def _positions(audit: Audit) -> Iterator[Fault]:
    before = 0
    for message in sorted(audit.published, key=lambda message: message.position):
        ends = {before}  # positions that the next message can follow: an epoch continues after its start
        for fork, start in audit.epochs:
            if fork in ends:
                ends.add(start)
        if message.position == before:
            yield Fault("position given twice", f"{message}")
        elif message.position - 1 not in ends:
            yield Fault("hole", f"after position {before}, before {message}")
        before = message.position
    first: dict[int, Published] = {}
    for message in audit.published:
        if message.id in first:
            yield Fault("two positions", f"{first[message.id]}, and then {message}")
        first.setdefault(message.id, message)


def _publishing(audit: Audit, outcome: Outcome) -> Iterator[Fault]:
    """Check that each text is in the log at most once.

    The returned and the committed texts must be in it, and no other text of a transaction.
    """
    times = Counter(message.text for message in audit.published if TEXT.fullmatch(message.text))
    lost = {text for loss in audit.losses for text in loss.texts}
    for text in {*outcome.returned, *outcome.committed} - times.keys() - lost:
        yield Fault("published, and not in the log", repr(text))
    committed = set(outcome.committed)
    for text, count in times.items():
        found = TEXT.fullmatch(text)
        kind = found["kind"] if found else ""
        if count > 1:
            rows = sorted((message for message in audit.published if message.text == text), key=lambda row: row.at)
            shown = "; ".join(f"id {row.id}: {row}, pruned {audit.pruned.get(row.position)}" for row in rows)
            # An idempotency key works only while its message is in the log. On a busy machine, a publisher can retry
            # for minutes, and then the first message might have been pruned.
            ends = [audit.pruned.get(row.position, math.inf) if kind == KEYED else math.inf for row in rows]
            if any(later.at < end for end, later in zip(ends, rows[1:], strict=False)):
                yield Fault("published once, and in the log more often", shown)
        if kind == ROLLS_BACK or (kind == COMMITS and text not in committed):
            yield Fault("ghost", f"{text!r} is in the log, and its transaction is not")


def _order(audit: Audit) -> Iterator[Fault]:
    """Check that messages published one after another have their positions in the same order."""
    before: dict[str, Published] = {}
    for message in sorted(audit.published, key=lambda message: message.position):
        found = TEXT.fullmatch(message.text)
        if found and found["kind"] in (ALONE, COMMITS, KEYED):
            earlier = before.get(found["name"])
            if earlier is not None and _number(earlier.text) > int(found["number"]):
                yield Fault("published out of order", f"{earlier}, and then {message}")
            before[found["name"]] = message


def _pruning(audit: Audit) -> Iterator[Fault]:
    """Check that a pruned message had `kept` newer ones in its channel. No message reaches its maximum age in a run."""
    for messages in audit.by_channel.values():
        for number, message in enumerate(messages):
            if (at := audit.pruned.get(message.position)) is not None:
                newer = sum(other.at <= at for other in messages[number + 1 : number + 1 + audit.kept])
                if newer < audit.kept:
                    yield Fault("pruned too early", f"{message}; pruned {at:.3f}, when {newer} newer were there")


def _number(text: str) -> int:
    return int(text.split(":")[1])


def silent(audit: Audit, names: Collection[str]) -> Iterator[Fault]:
    """Yield a fault for each publisher that has published nothing: without it, the run would prove little."""
    active = {message.text.split(":")[0].split(".")[0] for message in audit.published}
    for name in names:
        if name not in active:
            yield Fault("published nothing", name)


@dataclass(frozen=True, slots=True)
class Segment:
    """The messages that a client received from one history of the log.

    A segment ends with the reset that reports that the cursor belongs to another history. After that reset, the client
    receives the log from its beginning.
    """

    start: int
    begin: Reset | None
    seen: Sequence[Seen]
    resets: Sequence[Reset]
    lost: Loss | None  # if a reset has ended the segment: the lost history that contains the last cursor

    first: int  # the number of messages that the client had received before this segment

    def is_explained(self, position: int, pruned_at: float) -> bool:
        """Return True if a reset reported this message: it was pruned by then, and the client was not past it yet."""
        if self.begin is not None and pruned_at <= self.begin.at:
            return True
        for reset in self.resets:
            had_before = max((seen.position for seen in self.seen[: reset.before - self.first]), default=0)
            if reset.reason == "pruned" and pruned_at <= reset.at and max(reset.cursor, had_before) < position:
                return True
        return False


def _segments(audit: Audit, record: Record) -> Iterator[Segment]:
    assert record.start is not None
    start, begin, first, earlier = record.start, None, 0, 0
    for number, reset in enumerate(record.resets):
        if reset.reason == "unknown-id" and (loss := _loss(audit, reset)) is not None:
            resets = record.resets[earlier:number]
            yield Segment(start, begin, record.seen[first : reset.before], resets, loss, first)
            start, begin, first, earlier = 0, reset, reset.before, number + 1
    yield Segment(start, begin, record.seen[first:], record.resets[earlier:], None, first)


def _loss(audit: Audit, reset: Reset) -> Loss | None:
    """Return the lost history that contains the reset's cursor."""
    return next((loss for loss in audit.losses if loss.covers(reset.cursor) and loss.at <= reset.at), None)


def _client(audit: Audit, record: Record) -> Iterator[Fault]:
    if record.start is None:
        yield Fault("never served", f"{record.name} has had no stream at all")
        return
    known = {message.position: message for channel in record.channels for message in audit.by_channel.get(channel, [])}
    of_losses = [message for loss in audit.losses for message in loss.published if message.channel in record.channels]
    lost = {message.position: message for message in of_losses}
    every = {**lost, **known}
    pruned = audit.pruned_first
    highest = max((seen.position for seen in record.seen), default=record.start)
    for reset in record.resets:
        gone = (position for position in every if position > reset.cursor and position in pruned)
        is_of_pruning = reset.reason == "pruned" and any(pruned[position] <= reset.at for position in gone)
        if not is_of_pruning and not (reset.reason == "unknown-id" and _loss(audit, reset)):
            yield Fault("false reset", f"{record.name}, which had had up to {highest}: {reset}")
    for segment in _segments(audit, record):
        yield from _order_of(segment, record, every)
        yield from _without_reset(audit, segment, record, every)
        had = {seen.position for seen in segment.seen}
        for position in sorted(_expected(audit, segment, known) - had):
            if position not in pruned:
                yield Fault("lost", _story(record, position, every))
            elif not segment.is_explained(position, pruned[position]):
                yield Fault("silent gap", _story(record, position, every) + f"; pruned {pruned[position]:.3f}")


def _order_of(segment: Segment, record: Record, every: Mapping[int, Published]) -> Iterator[Fault]:
    highest, had = segment.start, set()
    for seen in segment.seen:
        if seen.position in had:
            yield Fault("repeated", _story(record, seen.position, every))
        elif seen.position <= highest:
            yield Fault("out of order", _story(record, seen.position, every))
        if seen.position not in every or every[seen.position].digest != seen.digest:
            yield Fault("not what was published", _story(record, seen.position, every))
        had.add(seen.position)
        highest = max(highest, seen.position)


def _expected(audit: Audit, segment: Segment, known: Collection[int]) -> set[int]:
    """Return the positions that the client must have received. In a lost history, these are those up to the fork.

    Messages above the fork can be missing, because they could no longer be read. The reset reports this.
    """
    through = max(known, default=0) if audit.horizon is None else audit.horizon
    if segment.lost is not None:
        through = segment.lost.fork
    return {position for position in known if segment.start < position <= through}


def _without_reset(audit: Audit, segment: Segment, record: Record, every: Mapping[int, Published]) -> Iterator[Fault]:
    """Check that a client with a cursor in a lost history receives a reset before any message of the new one."""
    for loss in audit.losses:
        places = [segment.start, *(seen.position for seen in segment.seen)]
        after = [position for position in places if position > loss.head]
        if after and any(loss.covers(position) for position in places):
            yield Fault("no reset", _story(record, after[0], every))


def _story(record: Record, position: int, known: Mapping[int, Published]) -> str:
    """Report when the message was published, and the client's connections around that time."""
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


def growth(first: Mapping[str, int], largest: Mapping[str, int]) -> Iterator[Fault]:
    """Yield a fault for each process that has grown by more than MAX_GROWTH_BYTES."""
    for name, rss in largest.items():
        if (grown := rss - first.get(name, rss)) > MAX_GROWTH_BYTES:
            yield Fault("grown", f"{name} by {grown // 1_000_000} MB")
