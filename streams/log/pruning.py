"""Delete messages: the oldest ones, those of a channel, and the traces of a deleted user.

Each deletion records how far each channel was pruned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

from django.db import connections, transaction
from django.db.models import Exists, F, Max, OuterRef, QuerySet, Sum

from streams.log.appending import lock_sqlite
from streams.log.reading import current_head
from streams.log.sizing import lock_size
from streams.log.transactions import own_transaction
from streams.models import Channel, LogHead, LogSize, Message
from streams.protocol.events import USER_PREFIX
from streams.runtime import clock
from streams.runtime.executor import database

# The number of pruning records, one for each channel. Beyond it, the oldest records of channels without messages are
# folded into the log's floor.
MAX_PRUNED_CHANNELS = 100_000

# How many records are folded at a time, and how many of them are deleted in one transaction.
FOLDED_AT_ONCE = 10_000
BATCH_CHANNELS = 500

# The record never moves back, because another pruning that began later can have gone further.
_MARK_PRUNED = """
    INSERT INTO streams_channel (name, pruned_through) VALUES (%s, %s)
    ON CONFLICT (name) DO UPDATE SET pruned_through = excluded.pruned_through
    WHERE streams_channel.pruned_through < excluded.pruned_through
"""


def delete_through(
    position: int, *, start: int = 0, channel: str | None = None, spared: Collection[str] = (), limit: int
) -> int:
    """Delete the oldest messages in [start, position], at most `limit`, in one transaction. Return how many.

    They are of one `channel`, or of all channels except `spared`. The same transaction records how far each channel was
    pruned, so that a reader that misses messages can always find out.
    """
    with own_transaction():
        lock_sqlite()
        some = messages_of(channel, spared).filter(position__gte=start)
        doomed = some.filter(position__lte=position).order_by("position")
        rows = list(doomed.values_list("position", "channel")[:limit])
        if not rows:
            return 0
        newest = {name: place or 0 for place, name in rows}  # ascending, so that the last one wins
        _delete(some, rows[-1][0] or 0, newest)
    return len(rows)


def erase_channels(names: Collection[str]) -> None:
    """Delete all messages of these channels, in the calling thread's transaction if one is open.

    It records how far each channel was pruned, so that streams with an older cursor get a reset. Publishers do not wait
    for the caller's transaction, but prunings do. Messages without a position are deleted after the commit.
    """
    if not names:
        return
    alias = database()
    with transaction.atomic(using=alias):
        lock_sqlite()
        _erase(names)
        transaction.on_commit(partial(_erase_rest, names), using=alias, robust=True)


def _erase(names: Collection[str]) -> None:
    for batch in _batches(names):
        some = Message.objects.using(database()).filter(channel__in=batch)
        found = some.filter(position__isnull=False).order_by().values_list("channel")
        newest = dict(found.annotate(newest=Max("position")))
        if newest:
            # Messages that are numbered after this query are above all of these. _erase_rest() deletes them.
            _delete(some, max(newest.values()), newest)


def _erase_rest(names: Collection[str]) -> None:
    """Delete the messages that had no position during _erase(), also if they have one now."""
    with own_transaction():
        lock_sqlite()
        for batch in _batches(names):
            Message.objects.using(database()).filter(channel__in=batch, position__isnull=True).delete()
        _erase(names)


def _batches(names: Collection[str]) -> Iterator[list[str]]:
    listed = sorted(names)
    for first in range(0, len(listed), BATCH_CHANNELS):
        yield listed[first : first + BATCH_CHANNELS]


def _delete(some: QuerySet[Message], through: int, newest: Mapping[str, int]) -> None:
    """Delete those of `some` messages that are at or below `through`, and record the newest one of each channel.

    Within a transaction. `some` must have no upper limit of its own: of two limits, SQLite uses one for the index, and
    reads every message up to this one.
    """
    alias = database()
    # This lock comes first: all transactions that delete messages take it. From here on no other one deletes or counts,
    # so that exactly the deleted bytes are subtracted.
    counted = some.filter(position__lte=min(through, lock_size().through))
    with connections[alias].cursor() as cursor:
        cursor.executemany(_MARK_PRUNED, sorted(newest.items()))
    if gone := counted.aggregate(total=Sum("size"))["total"]:
        LogSize.objects.using(alias).filter(id=LogSize.ROW).update(bytes=F("bytes") - gone)
    some.filter(position__lte=through).delete()


def date_newest(channel: str | None = None, spared: Collection[str] = ()) -> bool:
    """Set the date of the newest message to the present time if it is in the future. Return True if it was.

    Later messages show the minimum age of a message with a wrong date (see log/retention.py). The newest message has no
    later one, and would never expire.
    """
    newest = messages_of(channel, spared).filter(position__isnull=False).order_by("-position")
    pk = newest.values_list("pk", flat=True).first()
    future = Message.objects.using(database()).filter(pk__in=[pk], created_at__gt=clock.stored_now())
    return future.exists() and bool(future.update(created_at=clock.stored_now()))


def forget_pruned_channels(keep: int = MAX_PRUNED_CHANNELS) -> int:
    """Fold the oldest pruning records into the floor, so that records of channels that are used once do not pile up.

    Only records of channels without a message are folded; log.pruned() relies on this. Return how many were folded, at
    most FOLDED_AT_ONCE. Call it until it returns 0.
    """
    channels = Channel.objects.using(database())
    if (excess := channels.count() - keep) <= 0:
        return 0
    # A message that this statement does not see yet will get a position above every pruned position, so that all lost
    # messages of the channel stay below all of its later ones.
    empty = channels.filter(~Exists(Message.objects.using(database()).filter(channel=OuterRef("name"))))
    oldest = empty.order_by("pruned_through").values_list("name", "pruned_through")
    folded = list(oldest[: min(excess, FOLDED_AT_ONCE)])
    if not folded:
        return 0
    floor = folded[-1][1]
    # The floor before the records: from then on it covers the records that are deleted. In a short transaction of its
    # own, because it holds the lock on the head, which publishers need.
    with own_transaction():
        LogHead.objects.using(database()).filter(id=LogHead.ROW, floor__lt=floor).update(floor=floor)
    current_head()  # publishers that found the lock taken have left the numbering to this process
    for batch in _batches([name for name, _ in folded]):
        # The record of a channel that was pruned again since then is above the floor, and is kept.
        channels.filter(name__in=batch, pruned_through__lte=floor).delete()
    return len(folded)


def forget_channel(name: str) -> None:
    """Delete the pruning record of a channel that is not used any more."""
    Channel.objects.using(database()).filter(name=name).delete()


def messages_of(channel: str | None, spared: Collection[str]) -> QuerySet[Message]:
    """Return the messages of one `channel`; or if it is None, of all channels except `spared`."""
    rows = Message.objects.using(database())
    if channel is not None:
        return rows.filter(channel=channel)
    return rows.exclude(channel__in=spared) if spared else rows.all()


# --- Deleted users ----------------------------------------------------------------------------------------------------


def forget_publisher(user_pk: Any) -> None:
    """Clear `published_by` of a deleted user's messages, in the calling thread's transaction if one is open.

    A message without a position is cleared after the commit: otherwise the process that numbers it, and with it every
    publisher, would wait for this transaction.
    """
    alias = database()
    published = Message.objects.using(alias).filter(published_by=user_pk)
    with transaction.atomic(using=alias):
        lock_sqlite()
        numbered = published.filter(position__isnull=False)
        if numbered.exists():
            lock_size()  # before the messages, as a pruning does: each would wait for the other
            numbered.update(published_by=None)
        transaction.on_commit(partial(published.update, published_by=None), using=alias, robust=True)


def forget_addressee(user_pk: Any) -> None:
    """Delete the messages of a deleted user's own channel, in the calling thread's transaction if one is open."""
    erase_channels([f"{USER_PREFIX}{user_pk}"])
