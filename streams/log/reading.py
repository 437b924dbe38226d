"""Read the log: its head, its newest messages, pages of channels, and how far channels were pruned."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import Any

from django.db import connections
from django.db.models import Case, QuerySet, When

from streams.log import epochs, known, low_water
from streams.log.epochs import Epochs
from streams.log.sequencing import sequence_waiting
from streams.models import Channel, LogHead, Message
from streams.private.django import in_callers_transaction
from streams.protocol.sse import StoredEvent
from streams.runtime import clock
from streams.runtime.executor import database

# The limits of a page, which is the result of one read. Only a single message can be larger. A page is large enough
# that round trips do not dominate a replay, and small because each slow client that reads from the log holds one.
PAGE_MESSAGES = 250
PAGE_BYTES = 1_048_576

# A replay reads pages of up to this number of messages while they are small.
LONG_PAGE_MESSAGES = 1000

# Data up to this size is read together with its row, because a page of such rows is within the limit. Larger data is
# read by a second query, when its total size is known.
SMALL_BYTES = PAGE_BYTES // PAGE_MESSAGES

MAX_POSITION = 2**63 - 1

# position, channel, event, data, size. In a page, each row has its data.
Row = tuple[int, str, str, str, int]

_STORED = "position, channel, event, data"
_BOUNDED = ("position", "channel", "event", Case(When(size__lte=SMALL_BYTES, then="data")), "size")


@dataclass(frozen=True, slots=True)
class Head:
    """The state of the log.

    head: The newest position.
    floor: The position up to which a channel without messages counts as pruned.
    unsequenced: True if messages wait for a position.
    start: The start of the current epoch.
    is_replaced: True if the database is another one than before, and the new epoch has not started yet.
    times: The creation times of the messages at the positions that were passed to head(), None for a missing message.
        These values can only be compared with each other.
    """

    head: int
    floor: int
    unsequenced: bool
    start: int = 0
    is_replaced: bool = False
    times: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a replay: the messages of some channels in the positions (after, through].

    rows: All messages of that range that were not pruned, as rows: objects would take as long to make as to read.
    through: The position up to which the page reaches.
    pruned: {channel: newest pruned position} for the channels that lost messages above `after` to pruning.
    """

    rows: Sequence[Row]
    through: int
    pruned: dict[str, int]

    @property
    def messages(self) -> list[StoredEvent]:
        return _messages(self.rows)


@dataclass(frozen=True, slots=True)
class News:
    """The result of follow(): the head, the message at the follower's position, and the messages above it."""

    head: Head
    anchor: StoredEvent | None
    messages: list[StoredEvent]


def head(*positions: int) -> Head:
    """Return the log's state, and the times of the messages at `positions`: one cheap query.

    It is written in SQL because every process calls it every POLL_SECONDS, and the ORM takes longer to build the query
    than SQLite to answer it.
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
    """Return head() after numbering the messages that wait, and after starting a new epoch if one is due.

    If another process does that now, or inside a transaction, return the head unchanged: a reader must not wait for
    the head's lock, and must not hold it.
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
    """Return the newest position, after numbering the messages that wait."""
    return current().head


def identify() -> None:
    """Store the database's identity if none is stored yet, because a backup can be older than the first message."""
    if not LogHead.objects.using(database()).exclude(identity="").exists() and not _in_callers_transaction():
        sequence_waiting()


def opening() -> tuple[Epochs, int]:
    """Return the epochs and the head, both of the same moment, for a reader that begins to follow the log."""
    while True:
        known = epochs.read_epochs()
        state = current()
        if state.start == known.start:
            return known, state.head


def continues(position: int) -> bool:
    """Return False if `position` is above the head, or belongs to a lost history of the log."""
    known, newest = opening()
    return position <= newest and not known.is_lost(position)


def follow(position: int, mark: int) -> News:
    """Return the head and at most one page of the messages above `position`.

    The result also shows if the log is still the same: it contains the message at `position`, and in `head.times` the
    creation times of the messages at `mark` and at `position`. The caller knows the time at `mark`. If `mark` is
    `position`, the time is enough, and the message is not read.
    """
    state = current(mark, position)
    messages = between(position if mark == position else position - 1, state.head)
    anchor = messages.pop(0) if messages and messages[0].position == position else None
    if anchor is not None and not messages:  # it filled the page, or no message is above it
        messages = between(position, state.head)
    return News(state, anchor, messages)


def between(after: int, through: int) -> list[StoredEvent]:
    """Return the oldest messages of all channels in (after, through], at most one page."""
    if through <= after:
        return []
    rows = _bounded().filter(position__gt=after, position__lte=through).order_by("position")[:PAGE_MESSAGES]
    return _messages(_take(list(rows))[0])


def times_of(positions: Sequence[int]) -> dict[int, Any]:
    """Return {position: creation time} for the messages that are in the log. The times compare with `Head.times`."""
    found: dict[int, Any] = {}
    with connections[database()].cursor() as cursor:
        for start in range(0, len(positions), 500):  # databases limit the number of parameters
            some = positions[start : start + 500]
            places = ", ".join(["%s"] * len(some))
            cursor.execute(
                f"SELECT position, created_at FROM streams_message WHERE position IN ({places})",  # noqa: S608 - placeholders
                some,
            )
            found |= cursor.fetchall()
    return found


def age_seconds(position: int) -> float:
    """Return the time since the message at `position` was inserted, by the database's clock; 0 if it is missing."""
    rows = Message.objects.using(database()).filter(position=position)
    created_at = rows.values_list("created_at", flat=True).first()
    return 0.0 if created_at is None else (clock.read() - created_at).total_seconds()


def newest(through: int) -> list[StoredEvent]:
    """Return the newest messages at or below `through`, newest first, at most one page."""
    return _messages(_take(list(_bounded().filter(position__lte=through).order_by("-position")[:PAGE_MESSAGES]))[0])


def page(channels: Collection[str], after: int, through: int, limit: int | None = None) -> Page:
    """Return the oldest messages of `channels` in (after, through], at most `limit` (default: PAGE_MESSAGES).

    The messages are read first and the pruning records second, so that the records include every pruning that could
    have deleted messages before they were read.
    """
    limit = limit or PAGE_MESSAGES
    columns = f"position, channel, event, CASE WHEN size <= {PAGE_BYTES // limit} THEN data END, size"
    found = rows_of(channels, limit, after=after, through=through, columns=columns)
    rows, reached = _take(found)
    if reached is None:
        reached = found[-1][0] if len(found) == limit else through
    return Page(rows, reached, pruned(channels, after))


def pruned(channels: Collection[str], after: int) -> dict[str, int]:
    """Return {channel: newest pruned position} for those of `channels` that lost messages above `after`.

    For a channel with a record this is exact. A channel without a record never lost a message, or its record was folded
    into the floor. A record is folded only while its channel has no message in the log (see forget_pruned_channels()),
    so that all lost messages of the channel are below all of its later messages. If a message of the channel is at or
    below `after`, it lost nothing above `after`. Otherwise the two cases cannot be distinguished, and the channel
    counts as pruned up to the floor.
    """
    if not channels:
        return {}
    # One statement, so that a record that is missing here is below the floor.
    with connections[database()].cursor() as cursor:
        cursor.execute(
            f"""
            SELECT name, pruned_through FROM streams_channel WHERE name IN ({", ".join(["%s"] * len(channels))})
            UNION ALL SELECT NULL, floor FROM streams_loghead WHERE id = 1 AND floor > %s
            """,  # noqa: S608 - placeholders only
            [*channels, after],
        )
        records: dict[str | None, int] = dict(cursor.fetchall())
    floor = records.pop(None, None)
    found = {channel: through for channel, through in records.items() if channel is not None and through > after}
    if floor is not None and (unrecorded := set(channels) - records.keys()):
        found |= dict.fromkeys(unrecorded - _reaching_back(unrecorded, after), floor)
    return found


def _reaching_back(channels: Collection[str], position: int) -> set[str]:
    """Return the channels that have a message at or below `position`. It takes one index lookup for each."""
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
    """Return {channel: newest pruned position}. The result changes with every batch that deletes messages."""
    return dict(Channel.objects.using(database()).values_list("name", "pruned_through"))


def earliest(channels: Collection[str]) -> int | None:
    """Return the position of the oldest message of `channels`, or None if they have no message."""
    rows = rows_of(channels, 1)
    return rows[0][0] if rows else None


def newest_of(channels: Collection[str]) -> StoredEvent | None:
    """Return the newest message of `channels` that has a position, or None."""
    rows = rows_of(channels, 1, newest=True)
    return StoredEvent(*rows[0]) if rows else None


def start_of_newest(channels: Collection[str], count: int, through: int) -> int:
    """Return the cursor from which a replay to `through` sends the newest `count` messages of `channels`."""
    rows = rows_of(channels, count, through=through, newest=True, columns="position")
    return rows[-1][0] - 1 if rows else through


def _bounded() -> QuerySet[Message, tuple[Any, ...]]:
    return Message.objects.using(database()).values_list(*_BOUNDED)


def within_page(rows: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
    """Return the first rows whose sizes, their last values, are at most PAGE_BYTES together. At least one row."""
    if sum(map(itemgetter(-1), rows)) <= PAGE_BYTES:
        return rows
    sizes = accumulate(row[-1] for row in rows)
    return rows[: max(1, sum(size <= PAGE_BYTES for size in sizes))]


def _take(rows: Sequence[tuple[Any, ...]]) -> tuple[Sequence[Row], int | None]:
    """Return the rows of a page, up to PAGE_BYTES. If rows are left over, also return the last one's position."""
    taken = within_page(rows)
    reached = taken[-1][0] if len(taken) < len(rows) else None
    if large := [row[0] for row in taken if row[3] is None]:
        texts = dict(Message.objects.using(database()).filter(position__in=large).values_list("position", "data"))
        # A message that is missing was pruned since then, which is recorded.
        complete = ((*row[:3], texts.get(row[0]) if row[3] is None else row[3], row[4]) for row in taken)
        taken = [row for row in complete if row[3] is not None]
    return taken, reached


def _messages(rows: Sequence[Row]) -> list[StoredEvent]:
    return [StoredEvent(*row[:4]) for row in rows]


def rows_of(
    channels: Collection[str],
    limit: int,
    *,
    after: int = 0,
    through: int = MAX_POSITION,
    newest: bool = False,
    columns: str = _STORED,
) -> list[tuple[Any, ...]]:
    """Return the oldest `limit` messages of `channels` in (after, through], or the `newest`, newest first.

    It is one query that reads the (channel, position) index in order: a union with one part for each channel, because
    `channel IN (…)` would sort all matches before its LIMIT. PostgreSQL 15 does the same with a union, unless each part
    has the LIMIT too. SQLite merges the parts, and allows no LIMIT in them. The ORM would take longer to build it.
    """
    connection = connections[database()]
    part = f"SELECT {columns} FROM streams_message WHERE channel = %s AND position > %s AND position <= %s"  # noqa: S608
    order = f" ORDER BY position {'DESC' if newest else 'ASC'} LIMIT {limit:d}"
    if len(channels) > 1 and connection.features.supports_slicing_ordering_in_compound:
        part = f"({part}{order})"
    with connection.cursor() as cursor:
        cursor.execute(
            " UNION ALL ".join([part] * len(channels)) + order,
            [value for channel in channels for value in (channel, after, through)],
        )
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows
