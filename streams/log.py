"""The message log: append, sequence, read. The only module that writes the log's tables.

Two steps make a message. `append` inserts its row, in whatever transaction the caller has open. `sequence` gives a
position to every committed row that has none, in the order of their ids, under the lock of LogHead's one row, so that
positions have no holes and follow the order of commits. A bare autoincrement id would not do: ids are given at the
insert, and a transaction that commits late would put its message where readers have already been.

Everything here is synchronous, runs on the calling thread's connection and may block; see threads.run for the way in
from an event loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, connections, transaction
from django.db.models import Case, F, Max, Q, QuerySet, When

from streams.events import NewMessage, StoredEvent
from streams.exceptions import IdempotencyKeyReused
from streams.models import Channel, LogHead, Message
from streams.threads import database, wrapped_in_test

# What one read takes at most, but for a single message that is larger. Enough that a replay is not ruled by round
# trips; and little, for each client that reads on from the log slowly holds a page.
PAGE_MESSAGES = 250
PAGE_BYTES = 1_048_576

# Data of this size is read at once with its row: a page of it is within the bound. What is larger is asked for when it
# is known how much of it there is.
SMALL_BYTES = PAGE_BYTES // PAGE_MESSAGES

# How many channels may be remembered as pruned, one row each, before the oldest are folded into the log's floor.
MAX_PRUNED_CHANNELS = 100_000

_STORED = ("position", "channel", "event", "data")
_BOUNDED = ("position", "channel", "event", Case(When(size__lte=SMALL_BYTES, then="data")), "size")


@dataclass(frozen=True, slots=True)
class Head:
    """The log's state in one look: its newest position, its floor, and whether rows wait to be sequenced."""

    head: int
    floor: int
    unsequenced: bool


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of the log for some channels: the messages in (after, through], all of them unless `pruned` says not.

    `pruned` holds the channels that lost messages above `after` to pruning, each with the newest position it lost.
    """

    messages: list[StoredEvent]
    through: int
    pruned: dict[str, int]


# --- Writing -----------------------------------------------------------------------------------------------------


def append(messages: Sequence[NewMessage]) -> list[Message]:
    """Insert checked messages, unsequenced, on the calling thread's connection. Returns their rows, in order.

    Where a message's idempotency key was used on its channel before, its place in the result holds the first message
    and nothing is inserted for it. That waits for another transaction that is just inserting the same key. What was
    inserted says so by `is_new`.
    """
    if not any(message.idempotency_key for message in messages):
        return _insert(messages)
    _lock_sqlite()
    attempts = 5
    while True:
        attempts -= 1
        found = _by_key(messages)
        # Each key once, the first message that has it; those without a key are all different.
        fresh: dict[tuple[str, str] | int, NewMessage] = {}
        for index, message in enumerate(messages):
            if (key := _key(message) or index) not in found:
                fresh.setdefault(key, message)
        try:
            with transaction.atomic(using=database()):
                found |= zip(fresh, _insert(list(fresh.values())), strict=True)
                _check_keys(messages, found)
        except IntegrityError:
            # Another transaction has just committed one of the keys; the next look finds it. Not so where the caller
            # reads from an old snapshot (REPEATABLE READ): then there is nothing to be returned.
            if not attempts:
                raise
        else:
            return [found[_key(message) or index] for index, message in enumerate(messages)]


def _check_keys(messages: Sequence[NewMessage], found: Mapping[tuple[str, str] | int | None, Message]) -> None:
    """Raise IdempotencyKeyReused where a strict key stands for another message, of the log or of the same batch."""
    for message in messages:
        if message.strict_key and (key := _key(message)) is not None:
            first = found[key]
            if (first.event, first.data) != (message.event, message.data):
                raise IdempotencyKeyReused(
                    f"The idempotency key {message.idempotency_key!r} was used on {message.channel} for a message with "
                    "other data or another type. Nothing was published: send what was sent first, or take a new key."
                )


def _lock_sqlite() -> None:
    """Take SQLite's write lock, where a transaction is about to read before it writes.

    In Django's default mode a transaction takes it with its first write, and fails there if somebody else has written
    since its first read.
    """
    connection = connections[database()]
    if connection.vendor == "sqlite" and connection.in_atomic_block:
        LogHead.objects.using(connection.alias).filter(id=LogHead.ROW).update(head=F("head"))


def _insert(messages: Sequence[NewMessage]) -> list[Message]:
    rows = [
        Message(
            channel=message.channel,
            event=message.event,
            data=message.data,
            size=len(message.data.encode()),
            idempotency_key=message.idempotency_key,
            published_by=message.published_by,
        )
        for message in messages
    ]
    for row in rows:
        row.is_new = True
    stored = Message.objects.using(database())
    if sum(row.idempotency_key is not None for row in rows) > 1 and connections[database()].vendor == "postgresql":
        # Two batches that insert the same keys, each in its own order, would wait for one another. All insert in the
        # same order instead; the ids, by which positions are given, keep the batch's.
        with connections[database()].cursor() as cursor:
            cursor.execute(
                "SELECT nextval(pg_get_serial_sequence('streams_message', 'id')) FROM generate_series(1, %s)",
                [len(rows)],
            )
            for row, (pk,) in zip(rows, sorted(cursor.fetchall()), strict=True):
                row.pk = pk
        stored.bulk_create(sorted(rows, key=lambda row: (row.channel, row.idempotency_key or "")))
        return rows
    return stored.bulk_create(rows)


def _key(message: NewMessage | Message) -> tuple[str, str] | None:
    return None if message.idempotency_key is None else (message.channel, message.idempotency_key)


def _by_key(messages: Sequence[NewMessage]) -> dict[tuple[str, str] | int | None, Message]:
    wanted: dict[str, list[str]] = {}
    for channel, key in filter(None, map(_key, messages)):
        wanted.setdefault(channel, []).append(key)
    found: dict[tuple[str, str] | int | None, Message] = {}
    for channel, keys in wanted.items():
        for start in range(0, len(keys), 500):  # databases bound how many values a query may have
            rows = Message.objects.using(database()).filter(channel=channel)
            found |= {_key(row): row for row in rows.filter(idempotency_key__in=keys[start : start + 500])}
    return found


@contextlib.contextmanager
def own_transaction() -> Iterator[None]:
    """A transaction of the log's own, in which each statement sees what was committed before it.

    Also where the site has set another isolation level for its own work: under REPEATABLE READ, whoever waited for
    the head's lock would fail instead of going on with the new head.
    """
    alias = database()
    connection = connections[alias]
    outermost = not connection.in_atomic_block
    with transaction.atomic(using=alias):
        if outermost and connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                if _isolation_level(connection) is not None:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                if wrapped_in_test() is not None:
                    # Its transaction holds the head's lock until the test ends, and the test may wait for this thread.
                    cursor.execute("SET LOCAL lock_timeout = '5s'")
        yield


def _isolation_level(connection: Any) -> Any:
    return connection.settings_dict["OPTIONS"].get("isolation_level")


def sequence() -> dict[int, int]:
    """Give positions to all committed messages that have none. Returns {primary key: position}, in order.

    Takes the head's lock, held until the calling thread's transaction ends; without one, until this call ends.
    """
    alias = database()
    connection = connections[alias]
    # Within a transaction, no savepoint: it would be two statements more for every publish.
    within = contextlib.nullcontext() if connection.in_atomic_block else own_transaction()
    with within, connection.cursor() as cursor:
        number = _number_on_postgresql if connection.vendor == "postgresql" else _number_on_sqlite
        numbered = number(cursor)
        if numbered is None:
            _create_head()
            numbered = number(cursor)
    assert numbered is not None
    return numbered


def _number_on_postgresql(cursor: Any) -> dict[int, int] | None:
    # The lock in a statement of its own: the next one's snapshot is then younger than every commit that went before.
    # Locking and numbering in one would wait with an old snapshot, and number rows that others had just numbered.
    # The head is the newest position and no count: a row that somebody is deleting may get a number and not be placed.
    cursor.execute("SELECT head FROM streams_loghead WHERE id = 1 FOR UPDATE")
    if (row := cursor.fetchone()) is None:
        return None
    cursor.execute(
        """
        WITH numbered AS (
            SELECT id, row_number() OVER (ORDER BY id) AS n FROM streams_message WHERE position IS NULL
        ), placed AS (
            UPDATE streams_message AS message SET position = %s + n FROM numbered
            WHERE message.id = numbered.id RETURNING message.id, message.position
        ), moved AS (
            UPDATE streams_loghead SET head = (SELECT max(position) FROM placed)
            WHERE id = 1 AND EXISTS (SELECT FROM placed)
        )
        SELECT id, position FROM placed ORDER BY position
        """,
        [row[0]],
    )
    return dict(cursor.fetchall())


def _number_on_sqlite(cursor: Any) -> dict[int, int] | None:
    # A write first: SQLite takes its one write lock at once, and never has to upgrade a read transaction, which would
    # fail whenever somebody else had written in between.
    cursor.execute(
        """
        UPDATE streams_loghead
        SET head = head + (SELECT COUNT(*) FROM streams_message WHERE position IS NULL)
        WHERE id = 1 RETURNING head
        """
    )
    rows = cursor.fetchall()
    if not rows:
        return None
    cursor.execute(
        """
        UPDATE streams_message SET position = %s + 1 - numbered.n
        FROM (
            SELECT id, ROW_NUMBER() OVER (ORDER BY id DESC) AS n FROM streams_message WHERE position IS NULL
        ) AS numbered
        WHERE streams_message.id = numbered.id RETURNING streams_message.id, position
        """,
        [rows[0][0]],
    )
    return dict(sorted(cursor.fetchall(), key=lambda row: row[1]))


def _create_head() -> None:
    """Make LogHead's row where it is missing: Django's TransactionTestCase empties every table."""
    newest = Message.objects.using(database()).aggregate(newest=Max("position"))["newest"] or 0
    # Two may find it missing at once; the second waits for the first, and keeps what that one wrote.
    LogHead.objects.using(database()).bulk_create([LogHead(head=newest)], ignore_conflicts=True)


# Never back: another pruning that began later may have gone further.
_MARK_PRUNED = """
    INSERT INTO streams_channel (name, pruned_through) VALUES (%s, %s)
    ON CONFLICT (name) DO UPDATE SET pruned_through = excluded.pruned_through
    WHERE streams_channel.pruned_through < excluded.pruned_through
"""


def delete_through(
    position: int, *, start: int = 0, channel: str | None = None, spared: Collection[str] = (), limit: int
) -> int:
    """Prune the oldest messages in [start, position], at most `limit`, in one transaction; returns how many.

    Of all channels but the `spared` ones, or of one. How far each channel was pruned is recorded in the same
    transaction, so that no reader can ever see messages gone without also being able to know.
    """
    alias = database()
    with transaction.atomic(using=alias):
        _lock_sqlite()
        doomed = Message.objects.using(alias).filter(position__gte=start, position__lte=position)
        if channel is not None:
            doomed = doomed.filter(channel=channel)
        if spared:
            doomed = doomed.exclude(channel__in=spared)
        rows = list(doomed.order_by("position").values_list("position", "channel")[:limit])
        if not rows:
            return 0
        newest = {name: place or 0 for place, name in rows}  # ascending, so that the last one wins
        with connections[alias].cursor() as cursor:
            cursor.executemany(_MARK_PRUNED, sorted(newest.items()))
        doomed.filter(position__lte=rows[-1][0]).delete()
    return len(rows)


def forget_pruned_channels(keep: int = MAX_PRUNED_CHANNELS) -> None:
    """Fold the records of the longest-pruned channels into the floor, so that one-time channels do not pile up."""
    alias = database()
    marks = Channel.objects.using(alias).order_by("-pruned_through").values_list("pruned_through", flat=True)
    for floor in marks[keep : keep + 1]:
        with transaction.atomic(using=alias):
            # The floor first: from then on it alone already says what the rows below say.
            LogHead.objects.using(alias).filter(id=LogHead.ROW, floor__lt=floor).update(floor=floor)
            Channel.objects.using(alias).filter(pruned_through__lte=floor).delete()


def forget_channel(name: str) -> None:
    """Forget how far a channel was pruned that nobody will ask for again."""
    Channel.objects.using(database()).filter(name=name).delete()


# --- Reading -----------------------------------------------------------------------------------------------------


def head() -> Head:
    """The head, the floor, and whether there is something to sequence: one cheap query.

    Written out, for every process asks this every POLL_SECONDS: the ORM takes longer to say it than SQLite to answer.
    """
    with connections[database()].cursor() as cursor:
        cursor.execute(
            """
            SELECT head, floor, EXISTS (SELECT 1 FROM streams_message WHERE position IS NULL)
            FROM streams_loghead WHERE id = 1
            """
        )
        row = cursor.fetchone()
    return Head(0, 0, True) if row is None else Head(row[0], row[1], bool(row[2]))


def current_head() -> int:
    """The newest position, once whatever is committed has been sequenced."""
    state = head()
    if state.unsequenced:
        sequence()
        state = head()
    return state.head


def tail(after: int) -> tuple[int, list[StoredEvent]]:
    """The head, and the oldest messages of all channels above `after`, at most a page.

    Sequences what waits first, so that a message whose publisher died after its commit is found as well.
    """
    newest = current_head()
    if newest <= after:
        return newest, []
    rows = _bounded().filter(position__gt=after, position__lte=newest).order_by("position")[:PAGE_MESSAGES]
    return newest, _take(rows)[0]


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
    """{channel: newest pruned position} for those of `channels` that lost messages above `after`."""
    marks = Channel.objects.using(database()).filter(name__in=channels, pruned_through__gt=after)
    found = dict(marks.values_list("name", "pruned_through"))
    floor = LogHead.objects.using(database()).filter(floor__gt=after).values_list("floor", flat=True).first()
    if floor is not None:
        found = {channel: max(floor, found.get(channel, 0)) for channel in channels}
    return found


def pruning_marks() -> dict[str, int]:
    """{channel: how far it was pruned}: another answer after each batch, whichever messages that has deleted."""
    return dict(Channel.objects.using(database()).values_list("name", "pruned_through"))


def position_of(pk: int) -> int | None:
    """The position of one message; None where it has none yet, or is not in the log."""
    return Message.objects.using(database()).filter(pk=pk).values_list("position", flat=True).first()


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
