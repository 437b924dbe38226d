"""Read the log: its head, its tail, pages of channels, and what was pruned from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections
from django.db.models import Case, Q, QuerySet, When

from streams.log import epochs, known, low_water
from streams.log.epochs import Epochs
from streams.log.sequencing import sequence_waiting
from streams.models import Channel, LogHead, Message
from streams.private.django import in_callers_transaction
from streams.sse import StoredEvent
from streams.threads import database

# What one read takes at most, but for a single message that is larger. Enough that a replay is not ruled by round
# trips; and little, for each client that reads on from the log slowly holds a page.
PAGE_MESSAGES = 250
PAGE_BYTES = 1_048_576

# Data of this size is read at once with its row: a page of it is within the bound. What is larger is asked for when it
# is known how much of it there is.
SMALL_BYTES = PAGE_BYTES // PAGE_MESSAGES

_STORED = ("position", "channel", "event", "data")
_BOUNDED = ("position", "channel", "event", Case(When(size__lte=SMALL_BYTES, then="data")), "size")


@dataclass(frozen=True, slots=True)
class Head:
    """The log's state in one look: its newest position, its floor, and whether rows wait to be sequenced.

    `start` is that of the current epoch. `is_replaced`: the database is another one than before, and the epoch that
    this calls for has not started yet. `times`: when the messages were made that head() was asked for; None for one
    that is not in the log. The value can only be compared.
    """

    head: int
    floor: int
    unsequenced: bool
    start: int = 0
    is_replaced: bool = False
    times: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of the log for some channels: the messages in (after, through], all of them unless `pruned` says not.

    `pruned` holds the channels that lost messages above `after` to pruning, each with the newest position it lost.
    """

    messages: list[StoredEvent]
    through: int
    pruned: dict[str, int]


@dataclass(frozen=True, slots=True)
class News:
    """The log as one that follows it finds it: the head, the message at its own position, and those above."""

    head: Head
    anchor: StoredEvent | None
    messages: list[StoredEvent]


def head(*positions: int) -> Head:
    """Return the log's state, and the times of the messages at `positions`: one cheap query.

    Written out, for every process asks this every POLL_SECONDS: the ORM takes longer to say it than SQLite to answer.
    """
    connection = connections[database()]
    after_id = low_water.LOW_WATER.mark_for_poll()
    times = ", (SELECT created_at FROM streams_message WHERE position = %s)" * len(positions)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT head, floor, EXISTS (SELECT 1 FROM streams_message WHERE position IS NULL AND id > %s),
                COALESCE((SELECT max(start) FROM streams_epoch), 0), identity, {epochs.identity_sql(connection)}{times}
            FROM streams_loghead WHERE id = 1
            """,  # noqa: S608 - fixed texts
            [after_id, *positions],
        )
        row = cursor.fetchone()
    if row is not None and row[2] and after_id == 0:
        low_water.LOW_WATER.want_full_numbering()
    if row is None:
        return Head(0, 0, True, times=(None,) * len(positions))
    is_replaced = epochs.differs(row[4], epochs.identity(connection, row[5]))
    return Head(row[0], row[1], bool(row[2]), row[3], is_replaced, row[6:])


def current(*positions: int) -> Head:
    """Return head() after giving positions to the messages that wait, and after starting a new epoch if one is due.

    If another process is doing that, or inside a transaction, return the head as it is: a reader must not wait for the
    head's lock, nor hold it.
    """
    state = head(*positions)
    if (state.unsequenced or state.is_replaced) and not _in_callers_transaction():
        if state.is_replaced:
            known.forget()
        sequence_waiting()
        state = head(*positions)
    return state


def _in_callers_transaction() -> bool:
    connection = connections[database()]
    is_manual = not connection.in_atomic_block and not connection.get_autocommit()
    return is_manual or in_callers_transaction(connection)


def current_head() -> int:
    """Return the newest position, after giving positions to the messages that wait."""
    return current().head


def identify() -> None:
    """Store the database's identity if there is none yet: a backup can be older than the first message."""
    if not LogHead.objects.using(database()).exclude(identity="").exists() and not _in_callers_transaction():
        sequence_waiting()


def opening() -> tuple[Epochs, int]:
    """Return the epochs and the head, for one that begins to follow the log. Both are of one moment."""
    while True:
        known = epochs.read_epochs()
        state = current()
        if state.start == known.start:
            return known, state.head


def continues(position: int) -> bool:
    """Return True if the log goes on from `position`: False above the head, and for one of a history that is lost."""
    known, newest = opening()
    return position <= newest and not known.is_lost(position)


def follow(position: int, mark: int) -> News:
    """Return the head, the messages above `position`, at most a page, and what shows whether it is still the same log.

    That is the message at `position`, and the times in `head.times` of `mark`, a position whose time the caller knows,
    and of `position`. If these two are the same, the time is enough, and the message is not read.
    """
    state = current(mark, position)
    messages = between(position if mark == position else position - 1, state.head)
    anchor = messages.pop(0) if messages and messages[0].position == position else None
    if anchor is not None and not messages:  # it filled the page, or there is nothing above it
        messages = between(position, state.head)
    return News(state, anchor, messages)


def between(after: int, through: int) -> list[StoredEvent]:
    """The oldest messages of all channels in (after, through], at most a page."""
    if through <= after:
        return []
    return _take(_bounded().filter(position__gt=after, position__lte=through).order_by("position")[:PAGE_MESSAGES])[0]


def times_of(positions: Sequence[int]) -> dict[int, Any]:
    """Return {position: the time of its message}, for messages that are in the log; comparable with `Head.times`."""
    found: dict[int, Any] = {}
    with connections[database()].cursor() as cursor:
        for start in range(0, len(positions), 500):  # databases bound how many values a query may have
            some = positions[start : start + 500]
            places = ", ".join(["%s"] * len(some))
            cursor.execute(
                f"SELECT position, created_at FROM streams_message WHERE position IN ({places})",  # noqa: S608 - placeholders
                some,
            )
            found |= cursor.fetchall()
    return found


def newest(through: int) -> list[StoredEvent]:
    """The newest messages at or below `through`, newest first, at most a page."""
    return _take(_bounded().filter(position__lte=through).order_by("-position")[:PAGE_MESSAGES])[0]


def page(channels: Collection[str], after: int, through: int) -> Page:
    """The oldest messages of `channels` in (after, through], at most a page, and what pruning took from above `after`.

    The messages are read first and what was pruned second: a pruning that this read could have felt is then known.
    """
    within = Q(position__gt=after, position__lte=through)
    rows = rows_of(channels, within, "position", PAGE_MESSAGES, fields=_BOUNDED)
    messages, reached = _take(rows)
    if reached is None:
        reached = rows[-1][0] if len(rows) == PAGE_MESSAGES else through
    return Page(messages, reached, pruned(channels, after))


def pruned(channels: Collection[str], after: int) -> dict[str, int]:
    """{channel: newest pruned position} for those of `channels` that lost messages above `after`.

    A channel with a record is known exactly. One without a record never lost a message, or its record was folded into
    the floor; a record is folded only while its channel has no message in the log (see forget_pruned_channels()). What
    such a channel lost lies below all that it got later. So if a message of it lies at or below `after`, it lost
    nothing above `after`. If none does, nothing tells the two cases apart, and up to the floor it counts as pruned.
    """
    # The records first, the floor second: a record that is missing here was folded into a floor that is read here.
    records = dict(Channel.objects.using(database()).filter(name__in=channels).values_list("name", "pruned_through"))
    found = {channel: through for channel, through in records.items() if through > after}
    floor = LogHead.objects.using(database()).filter(floor__gt=after).values_list("floor", flat=True).first()
    if floor is not None and (unrecorded := set(channels) - records.keys()):
        found |= dict.fromkeys(unrecorded - _reaching_back(unrecorded, after), floor)
    return found


def _reaching_back(channels: Collection[str], position: int) -> set[str]:
    """Those of `channels` that have a message at or below `position`: one step in the index for each."""
    with connections[database()].cursor() as cursor:
        cursor.execute(
            f"""
            WITH asked (name) AS (VALUES {", ".join(["(%s)"] * len(channels))})
            SELECT name FROM asked
            WHERE EXISTS (SELECT 1 FROM streams_message WHERE channel = asked.name AND position <= %s)
            """,  # noqa: S608 - placeholders only
            [*channels, position],
        )
        return {name for (name,) in cursor.fetchall()}


def pruning_marks() -> dict[str, int]:
    """{channel: how far it was pruned}: another answer after each batch, whichever messages that has deleted."""
    return dict(Channel.objects.using(database()).values_list("name", "pruned_through"))


def earliest(channels: Collection[str]) -> int | None:
    """The position of the oldest message of `channels` that is still in the log; None where there is none."""
    rows = rows_of(channels, Q(position__isnull=False), "position", 1)
    return rows[0][0] if rows else None


def newest_of(channels: Collection[str]) -> StoredEvent | None:
    """The newest message of `channels` that is in the log and sequenced."""
    rows = rows_of(channels, Q(position__isnull=False), "-position", 1)
    return StoredEvent(*rows[0]) if rows else None


def start_of_newest(channels: Collection[str], count: int, through: int) -> int:
    """The cursor from which a replay to `through` brings the newest `count` messages of `channels`."""
    rows = rows_of(channels, Q(position__lte=through), "-position", count, fields=("position",))
    return rows[-1][0] - 1 if rows else through


def _bounded() -> QuerySet[Message, tuple[Any, ...]]:
    return Message.objects.using(database()).values_list(*_BOUNDED)


def _take(rows: Iterable[tuple[Any, ...]]) -> tuple[list[StoredEvent], int | None]:
    """The messages of a page, as far as PAGE_BYTES go; and the last one's position, where that was not all."""
    taken: list[tuple[Any, ...]] = []
    left, reached = PAGE_BYTES, None
    for row in rows:
        left -= row[-1]
        if taken and left < 0:
            reached = taken[-1][0]
            break
        taken.append(row)
    large = [position for position, _, _, data, _ in taken if data is None]
    texts: dict[int | None, str] = {}
    if large:
        texts = dict(Message.objects.using(database()).filter(position__in=large).values_list("position", "data"))
    messages = []
    for position, channel, event, data, _ in taken:
        text = texts.get(position) if data is None else data
        if text is not None:  # else it was pruned since, and that has been written down
            messages.append(StoredEvent(position, channel, event, text))
    return messages, reached


def rows_of(
    channels: Collection[str], condition: Q, order: str, limit: int, fields: Sequence[str | Case] = _STORED
) -> list[tuple[Any, ...]]:
    """The first `limit` messages of `channels`, by one query that reads the (channel, position) index in order.

    A union of one part for each channel, for a `channel IN (…)` would sort all that matches before its LIMIT. So does
    PostgreSQL with a union (seen in 15), unless each of its parts has the LIMIT too; SQLite merges, and allows none.
    """
    every = Message.objects.using(database()).filter(condition).values_list(*fields)
    parts = [every.filter(channel=channel).order_by() for channel in channels]
    if len(parts) == 1:
        return list(parts[0].order_by(order)[:limit])
    if connections[database()].features.supports_slicing_ordering_in_compound:
        parts = [part.order_by(order)[:limit] for part in parts]
    return list(parts[0].union(*parts[1:], all=True).order_by(order)[:limit])
