"""Retention: which messages are old enough to go, by age, by count for each channel, and by bytes.

It decides; log.delete_through deletes, in small batches, so that no publisher ever waits for a pruning.

Ages are by the database's clock alone, which dates the messages as well. A message whose date lies in the future (that
clock was ahead, or the row was imported) says nothing by its date. Positions follow the order of commits, so that it is
at least as old as the messages behind it: it goes when one of them goes. The newest message of all, which has none
behind it, is given the present time by the next pruning.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from django.db.models import BooleanField, Count, ExpressionWrapper, F, Q, QuerySet, RowRange, Sum, Window
from django.db.models.functions import Now

from streams import channels, leases, log, threads
from streams.conf import settings
from streams.models import Message
from streams.threads import database

logger = logging.getLogger("streams.retention")

BATCH_MESSAGES = 500

# The lease of the process that prunes, and for how many seconds it takes it at a time. It renews it between its steps;
# if it dies, the others wait for so long. A step can be long: counting the messages of each channel reads the whole
# log, two million messages in a second. If the lease expired during it, the next process would begin the same
# step, and none would ever finish.
LEASE = "prune"
LEASE_SECONDS = 300.0
RENEW_SECONDS = 30.0

# A message can be kept for longer than databases have dates. This is as good as for ever.
LONGEST_SECONDS = 1000 * 366 * 86_400

# If more than this share of the log is to go because of its bytes, they are added up again first.
DOUBTFUL_SHARE = 0.1


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


def prune(
    *,
    pause_seconds: float = 0.0,
    most_seconds: float = float("inf"),
    goes_on: Callable[[], bool] = lambda: True,
) -> int:
    """Delete what retention lets go. Returns how many messages went.

    `pause_seconds` between batches leaves a database room for others. After `most_seconds`, or when `goes_on()` returns
    False, it stops, and may be called again. `goes_on` is called between all steps, each of which is short.
    """
    pruned = 0
    end = time.monotonic() + most_seconds

    def is_over() -> bool:
        return time.monotonic() > end or not goes_on()

    _prepare(is_over)
    is_done = False
    while not is_done:
        is_done = True
        for count in _batches(is_over):
            if count is None:  # what staff have just set to be kept is kept, also where a long pruning is under way
                is_done = False
                break
            pruned += count
            time.sleep(pause_seconds)
    while not is_over() and log.forget_pruned_channels():
        pass
    if pruned:
        logger.info("Pruned %d messages.", pruned)
    return pruned


def _prepare(is_over: Callable[[], bool]) -> None:
    """Date the newest messages that have a date in the future, and count the bytes of what was published lately."""
    own_age = {channel: kept.seconds for channel, kept in channels.retentions().items() if kept.seconds is not None}
    if settings.RETENTION_SECONDS is not None:
        log.date_newest(spared=sorted(own_age))
    for channel, seconds in own_age.items():
        if seconds:
            log.date_newest(channel)
    if settings.RETENTION_BYTES is not None:
        while not is_over() and log.count_size():
            pass


def _batches(is_over: Callable[[], bool]) -> Iterator[int | None]:
    """Delete batch by batch until `is_over()`; yield how many went with each.

    Yield None, and stop, when a channel's own retention has changed meanwhile.
    """
    own = channels.retentions()
    for cut in cuts(own):
        start: int | None = 0
        while True:
            if is_over():
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
    """Prune, unless another process does, or has within the last PRUNE_SECONDS. Hubs call it, in any number of them.

    If it fails, the lease expires by itself, and another process tries.
    """
    interval = settings.PRUNE_SECONDS
    holder = leases.new_holder()
    if interval is None or not leases.acquire(LEASE, holder, LEASE_SECONDS, longest=interval):
        return 0
    renewed_at = time.monotonic()

    def is_still_ours() -> bool:
        nonlocal renewed_at
        if time.monotonic() - renewed_at < RENEW_SECONDS:
            return True
        renewed_at = time.monotonic()
        return leases.renew(LEASE, holder, LEASE_SECONDS)

    pruned = prune(pause_seconds=0.01, goes_on=is_still_ours)
    leases.release(LEASE, holder, rest_seconds=interval)
    return pruned


async def prune_periodically() -> None:
    """Run prune_if_due() away from the event loop."""
    await threads.run(prune_if_due, pool=threads.WAITING)


def period_seconds() -> float | None:
    """Return how often a process checks if pruning is due, or None if pruning is switched off."""
    interval = settings.PRUNE_SECONDS
    return None if interval is None else min(interval, 60.0)


def _sequenced() -> QuerySet[Message]:
    return Message.objects.using(database()).filter(position__isnull=False)


def _aged(seconds: float, rows: QuerySet[Message]) -> int | None:
    """The newest position of the unbroken run of expired messages at the beginning of `rows`.

    Messages with a date in the future neither begin the run nor end it; they belong to it if an expired one follows.
    """
    if seconds > LONGEST_SECONDS:
        return None
    limit = Now() - datetime.timedelta(seconds=seconds)
    dated = rows.filter(created_at__lte=Now()).order_by("position")
    # Only the oldest is looked at before anything is scanned: created_at has no index, and mostly nothing has expired.
    is_expired = ExpressionWrapper(Q(created_at__lt=limit), output_field=BooleanField())
    if not dated.annotate(is_expired=is_expired).values_list("is_expired", flat=True).first():
        return None
    newest = log.head().head  # before the next look, which does not see what is published after it
    kept = dated.filter(created_at__gte=limit).values_list("position", flat=True).first()
    end = newest if kept is None else kept - 1
    expired = rows.filter(position__lte=end, created_at__lt=limit).order_by("-position")
    return expired.values_list("position", flat=True).first()


def _beyond_count(channel: str, keep: int) -> Iterator[Cut]:
    newest_to_go = _sequenced().filter(channel=channel).order_by("-position")[keep : keep + 1]
    for through in filter(None, newest_to_go.values_list("position", flat=True)):
        yield Cut(through, channel, "count")


def _beyond_bytes(limit: int) -> int | None:
    """The newest position that has to go for the log to hold at most `limit` bytes of data."""
    total = log.size()
    if total - limit > total * DOUBTFUL_SHARE:
        # The log's sum is wrong if rows were deleted in some other way. It must not cost what is left.
        total = log.size(scan=True)
    if total <= limit:
        return None
    # From the oldest on, so that it reads no more than what goes.
    so_far = Window(Sum("size"), order_by=F("position").asc(), frame=RowRange(end=0))
    enough = _sequenced().annotate(so_far=so_far).filter(so_far__gte=total - limit).order_by("position")
    return enough.values_list("position", flat=True).first()
