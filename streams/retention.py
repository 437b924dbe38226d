"""Retention: which messages are old enough to go, by age, by count for each channel, and by bytes.

It decides; log.delete_through deletes, in small batches, so that no publisher ever waits for a pruning.
"""

from __future__ import annotations

import datetime
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from django.db.models import Count, F, QuerySet, Sum, Window
from django.utils import timezone

from streams import channels, leases, log, threads
from streams.conf import settings
from streams.models import Message
from streams.threads import database

logger = logging.getLogger("streams.retention")

BATCH_MESSAGES = 500


@dataclass(frozen=True, slots=True)
class Cut:
    """Everything at or below `through` may go: of one channel, or of all but the `spared` where `channel` is None."""

    through: int
    channel: str | None
    reason: str
    spared: tuple[str, ...] = ()

    def messages(self) -> int:
        """How many messages the cut would take now."""
        return self._doomed().count()

    def oldest(self, start: int) -> int | None:
        """The position of the oldest message at or above `start` that it would take now."""
        doomed = self._doomed().filter(position__gte=start).order_by("position")
        return doomed.values_list("position", flat=True).first()

    def _doomed(self) -> QuerySet[Message]:
        doomed = Message.objects.using(database()).filter(position__lte=self.through)
        if self.channel is not None:
            return doomed.filter(channel=self.channel)
        return doomed.exclude(channel__in=self.spared) if self.spared else doomed


def cuts(own: Mapping[str, channels.Retention] | None = None) -> Iterator[Cut]:
    """Yield what retention lets go now: that of the settings, and that of channels that have one of their `own`.

    Each is worked out when it is asked for: after the one before. RETENTION_BYTES bounds the log as a whole, whatever
    a channel is to keep.
    """
    own = channels.retentions() if own is None else own
    own_age = {channel: kept.seconds for channel, kept in own.items() if kept.seconds is not None}
    own_count = {channel: kept.messages for channel, kept in own.items() if kept.messages is not None}

    if settings.RETENTION_SECONDS is not None:
        spared = tuple(sorted(own_age))
        if through := _aged(settings.RETENTION_SECONDS, _sequenced().exclude(channel__in=spared)):
            yield Cut(through, None, "age", spared)
    for channel, seconds in sorted(own_age.items()):
        if seconds and (through := _aged(seconds, _sequenced().filter(channel=channel))):
            yield Cut(through, channel, "age")

    if settings.RETENTION_BYTES is not None and (through := _beyond_bytes(settings.RETENTION_BYTES)):
        yield Cut(through, None, "bytes")

    if (keep := settings.RETENTION_MESSAGES_PER_CHANNEL) is not None:
        counted = _sequenced().exclude(channel__in=own_count).values("channel").annotate(n=Count("id"))
        crowded = counted.filter(n__gt=keep).order_by("channel")
        for channel in list(crowded.values_list("channel", flat=True)):
            yield from _beyond_count(channel, keep)
    for channel, keep in sorted(own_count.items()):
        if keep:
            yield from _beyond_count(channel, keep)


def prune(*, pause_seconds: float = 0.0, most_seconds: float = float("inf")) -> int:
    """Delete what retention lets go. Returns how many messages went.

    `pause_seconds` between batches leaves a database room for others. After `most_seconds` it stops, and may be called
    again.
    """
    pruned = 0
    end = time.monotonic() + most_seconds
    is_done = False
    while not is_done:
        is_done = True
        for count in _batches(end):
            if count is None:  # what staff have just set to be kept is kept, also where a long pruning is under way
                is_done = False
                break
            pruned += count
            time.sleep(pause_seconds)
    log.forget_pruned_channels()
    if pruned:
        logger.info("Pruned %d messages.", pruned)
    return pruned


def _batches(end: float) -> Iterator[int | None]:
    """Delete batch by batch until `end`, by time.monotonic(); yield how many went with each.

    Yield None, and stop, when a channel's own retention has changed meanwhile.
    """
    own = channels.retentions()
    for cut in cuts(own):
        start: int | None = 0
        while True:
            if time.monotonic() > end:
                return
            if channels.retentions() != own:
                yield None
                return
            # What is spared is passed over once, and not by every batch, which holds SQLite's one lock meanwhile.
            if cut.spared and (start := cut.oldest(start or 0)) is None:
                break
            count = log.delete_through(
                cut.through, start=start or 0, channel=cut.channel, spared=cut.spared, limit=BATCH_MESSAGES
            )
            yield count
            if count < BATCH_MESSAGES:
                break


def prune_if_due() -> int:
    """Prune, unless another process has within the last PRUNE_SECONDS. What hubs call; safe in any number of them."""
    interval = settings.PRUNE_SECONDS
    if interval is None or not leases.acquire("prune", f"{os.getpid()} {time.monotonic()}", interval):
        return 0
    return prune(pause_seconds=0.01)


async def prune_as_chore() -> None:
    """prune_if_due(), away from the event loop."""
    await threads.run(prune_if_due, pool=threads.WAITING)


def chore_seconds() -> float | None:
    """How often a process looks whether pruning is due."""
    interval = settings.PRUNE_SECONDS
    return None if interval is None else min(interval, 60.0)


def _sequenced() -> QuerySet[Message]:
    return Message.objects.using(database()).filter(position__isnull=False)


def _aged(seconds: float, rows: QuerySet[Message]) -> int | None:
    """The newest position of the unbroken run of expired messages at the beginning of `rows`."""
    try:
        limit = timezone.now() - datetime.timedelta(seconds=seconds)
    except OverflowError:  # longer than there have been years
        return None
    # Only the oldest is looked at before anything is scanned: created_at has no index, and mostly nothing has expired.
    oldest = rows.order_by("position").values_list("created_at", flat=True).first()
    if oldest is None or oldest >= limit:
        return None
    newest = log.head().head  # before the next look, which does not see what is published after it
    kept = rows.filter(created_at__gte=limit).order_by("position").values_list("position", flat=True).first()
    return kept - 1 if kept is not None else newest


def _beyond_count(channel: str, keep: int) -> Iterator[Cut]:
    newest_to_go = _sequenced().filter(channel=channel).order_by("-position")[keep : keep + 1]
    for through in filter(None, newest_to_go.values_list("position", flat=True)):
        yield Cut(through, channel, "count")


def _beyond_bytes(limit: int) -> int | None:
    """The newest position above which the log holds more than `limit` bytes of data, that one included."""
    if (_sequenced().aggregate(total=Sum("size"))["total"] or 0) <= limit:
        return None
    newer = Window(Sum("size"), order_by=F("position").desc())
    over = _sequenced().annotate(newer=newer).filter(newer__gt=limit).order_by("-position")
    return over.values_list("position", flat=True).first()
