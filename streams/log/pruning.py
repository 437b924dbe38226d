"""Prune: delete the oldest messages, and record how far each channel was pruned."""

from __future__ import annotations

from collections.abc import Collection

from django.db import connections, transaction

from streams.log.appending import lock_sqlite
from streams.models import Channel, LogHead, Message
from streams.threads import database

# How many channels may be remembered as pruned, one row each, before the oldest are folded into the log's floor.
MAX_PRUNED_CHANNELS = 100_000

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
        lock_sqlite()
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
