"""Retention: which messages are old enough to go, by age, by count for each channel, and by bytes.

It decides; log.delete_through deletes, in small batches, so that no publisher ever waits for a pruning.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

from django.db.models import Count, F, Q, QuerySet, Sum, Window
from django.utils import timezone

from streams import log
from streams.conf import settings
from streams.models import LogHead, Message
from streams.threads import database

logger = logging.getLogger("streams.retention")

BATCH_MESSAGES = 500


@dataclass(frozen=True, slots=True)
class Cut:
    """Everything at or below `through` may go: of one channel, or of all where `channel` is None."""

    through: int
    channel: str | None
    reason: str

    def messages(self) -> int:
        """How many messages the cut would take now."""
        scope = Q() if self.channel is None else Q(channel=self.channel)
        return Message.objects.using(database()).filter(scope, position__lte=self.through).count()


def cuts() -> Iterator[Cut]:
    """Yield what the retention settings let go now. Each is worked out when it is asked for: after the one before."""
    if settings.RETENTION_SECONDS is not None and (through := _aged(settings.RETENTION_SECONDS)):
        yield Cut(through, None, "age")
    if settings.RETENTION_BYTES is not None and (through := _beyond_bytes(settings.RETENTION_BYTES)):
        yield Cut(through, None, "bytes")
    if (keep := settings.RETENTION_MESSAGES_PER_CHANNEL) is not None:
        crowded = _sequenced().values("channel").annotate(n=Count("id")).filter(n__gt=keep).order_by("channel")
        for channel in list(crowded.values_list("channel", flat=True)):
            newest_to_go = _sequenced().filter(channel=channel).order_by("-position")[keep : keep + 1]
            for through in filter(None, newest_to_go.values_list("position", flat=True)):
                yield Cut(through, channel, "count")


def prune(*, pause_seconds: float = 0.0) -> int:
    """Delete what the retention settings let go. Returns how many messages went.

    `pause_seconds` between batches leaves a database room for others.
    """
    pruned = 0
    for cut in cuts():
        while count := log.delete_through(cut.through, channel=cut.channel, limit=BATCH_MESSAGES):
            pruned += count
            if count < BATCH_MESSAGES:
                break
            time.sleep(pause_seconds)
    log.forget_pruned_channels()
    if pruned:
        logger.info("Pruned %d messages.", pruned)
    return pruned


def prune_if_due() -> int:
    """Prune, unless another process has within the last PRUNE_SECONDS. What hubs call; safe in any number of them."""
    interval = settings.PRUNE_SECONDS
    if interval is None or not _claim(interval):
        return 0
    return prune(pause_seconds=0.01)


def _claim(interval_seconds: float) -> bool:
    # An UPDATE with a condition is an atomic test-and-set: of several processes, one changes the row.
    now = timezone.now()
    due = Q(pruned_at=None) | Q(pruned_at__lte=now - datetime.timedelta(seconds=interval_seconds))
    rows = LogHead.objects.using(database()).filter(due, id=LogHead.ROW)
    return rows.exists() and rows.update(pruned_at=now) == 1


def _sequenced() -> QuerySet[Message]:
    return Message.objects.using(database()).filter(position__isnull=False)


def _aged(seconds: float) -> int | None:
    """The newest position of the unbroken run of expired messages at the log's beginning."""
    limit = timezone.now() - datetime.timedelta(seconds=seconds)
    # Only the oldest is looked at before anything is scanned: created_at has no index, and mostly nothing has expired.
    oldest = _sequenced().order_by("position").values_list("created_at", flat=True).first()
    if oldest is None or oldest >= limit:
        return None
    newest = log.head().head  # before the next look, which does not see what is published after it
    kept = _sequenced().filter(created_at__gte=limit).order_by("position").values_list("position", flat=True).first()
    return kept - 1 if kept is not None else newest


def _beyond_bytes(limit: int) -> int | None:
    """The newest position above which the log holds more than `limit` bytes of data, that one included."""
    if (_sequenced().aggregate(total=Sum("size"))["total"] or 0) <= limit:
        return None
    newer = Window(Sum("size"), order_by=F("position").desc())
    over = _sequenced().annotate(newer=newer).filter(newer__gt=limit).order_by("-position")
    return over.values_list("position", flat=True).first()
