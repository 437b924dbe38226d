"""Retention: decide which messages are deleted, by age, by count for each channel, and by bytes.

log.delete_through() deletes them, in small batches, so that no publisher waits for a pruning.

Ages are measured by the database's clock, which also dates the messages. A message with a date in the future is at
least as old as the messages after it, and is deleted with them; see docs/internals/log.md.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Q, QuerySet

from streams import log
from streams.channels import rules
from streams.conf import settings
from streams.log import leases
from streams.log.pruning import messages_of
from streams.log.sizing import RECOUNT_SECONDS, STEP_MESSAGES
from streams.models import Message
from streams.runtime import clock, executor
from streams.runtime.executor import database
from streams.runtime.resets import on_settings_change, per_process
from streams.telemetry import recorder
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams.retention")

BATCH_MESSAGES = 500

# The lease of the process that prunes, and its duration. The process renews it between its steps. If the process dies,
# the others wait until the lease expires. A step can be long: counting the messages of each channel reads the whole
# log, at two million messages per second. If the lease expired during the step, the next process would begin the same
# step, and no process would ever finish it.
LEASE = "prune"
LEASE_SECONDS = 300.0
RENEW_SECONDS = 30.0

# A longer retention keeps messages forever, because databases have no dates that far back.
LONGEST_SECONDS = 1000 * 366 * 86_400

# If more messages are new, all are counted.
MAX_NEW_MESSAGES = 500_000

# If more than this share of the log would be deleted because of its bytes, the bytes are counted again first.
DOUBTFUL_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Cut:
    """Messages to delete: those at or below the position `through`, of one channel.

    If `channel` is None, of all channels except `spared`.
    """

    through: int
    channel: str | None
    reason: str
    spared: tuple[str, ...] = ()

    def messages(self) -> int:
        """Return how many messages the cut would delete now."""
        return self._rows().count()

    def oldest(self, start: int) -> int | None:
        """Return the position of the oldest message at or above `start` that the cut would delete now."""
        rows = self._rows().filter(position__gte=start).order_by("position")
        return rows.values_list("position", flat=True).first()

    def _rows(self) -> QuerySet[Message]:
        return messages_of(self.channel, self.spared).filter(position__lte=self.through)


class CountedLog:
    """The part of the log in which no channel has more messages than RETENTION_MESSAGES_PER_CHANNEL.

    Counting the messages of each channel reads the whole log. After a complete pruning, only the channels that got
    messages since then can have too many. As in log/sizing.py, everything is counted again now and then.
    """

    def __init__(self) -> None:
        self._through = 0
        self._condition: tuple[object, ...] = ()
        self._counted_at = 0.0
        self._begun: tuple[int, tuple[object, ...], float] = (0, (), 0.0)

    def begin(self, own: Mapping[str, rules.Retention]) -> int:
        """Begin a pruning. Return the position up to which it need not count; 0 if it must count everything."""
        head, now = log.head(), time.monotonic()
        counted = sorted(name for name, kept in own.items() if kept.messages is not None)
        condition = head.start, settings.RETENTION_MESSAGES_PER_CHANNEL, counted
        is_valid = condition == self._condition and 0 <= head.head - self._through <= MAX_NEW_MESSAGES
        through = self._through if is_valid and now - self._counted_at < RECOUNT_SECONDS else 0
        self._begun = head.head, condition, self._counted_at if through else now
        return through

    def complete(self) -> None:
        """Note that the pruning is complete."""
        self._through, self._condition, self._counted_at = self._begun


def cuts(own: Mapping[str, rules.Retention] | None = None, counted_through: int = 0) -> Iterator[Cut]:
    """Yield the cuts of the site's settings, and of channels that have settings of their `own`.

    In the positions up to `counted_through`, no channel has too many messages (see CountedLog).

    Each cut is computed when it is requested, so that it sees the effect of the one before. RETENTION_BYTES applies to
    the whole log, whatever the settings of a channel are.
    """
    own = rules.retentions() if own is None else own
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
        for channel in _new_channels(counted_through) if counted_through else _crowded_channels(keep):
            if channel not in own_count:
                yield from _beyond_count(channel, keep)
    for channel, keep in sorted(own_count.items()):
        if keep:
            yield from _beyond_count(channel, keep)


def prune(
    *,
    pause_seconds: float = 0.0,
    max_seconds: float = float("inf"),
    goes_on: Callable[[], bool] = lambda: True,
    counted: CountedLog | None = None,
) -> int:
    """Delete the messages that retention does not keep. Return how many were deleted.

    pause_seconds: A pause after each batch, in which other transactions can use the database.
    max_seconds: Stop after this time. The next call continues.
    goes_on: Stop if it returns False. It is called between all steps.
    counted: The part of the log that need not be counted again. It is updated.
    """
    pruned = 0
    end = time.monotonic() + max_seconds

    def is_over() -> bool:
        return time.monotonic() > end or not goes_on()

    _prepare(is_over)
    for count in _batches(is_over, CountedLog() if counted is None else counted):
        pruned += count
        time.sleep(pause_seconds)
    while not is_over() and log.forget_pruned_channels():
        pass
    if pruned:
        recorder.current.pruned(pruned)
        logger.info("Pruned %d messages.", pruned, extra=fields(event="pruned", messages=pruned))
    return pruned


def _prepare(is_over: Callable[[], bool]) -> None:
    """Correct the newest messages' dates if they are in the future, and count the bytes of new messages."""
    own_age = {channel: kept.seconds for channel, kept in rules.retentions().items() if kept.seconds is not None}
    if settings.RETENTION_SECONDS is not None:
        log.date_newest(spared=sorted(own_age))
    for channel, seconds in own_age.items():
        if seconds:
            log.date_newest(channel)
    if settings.RETENTION_BYTES is not None:
        while not is_over() and log.count_size():
            pass


def _batches(is_over: Callable[[], bool], counted: CountedLog) -> Iterator[int]:
    """Delete batch by batch until `is_over()`; yield the number of deleted messages for each."""
    own = rules.retentions()
    for cut in cuts(own, counted.begin(own)):
        start: int | None = 0
        while True:
            if is_over():
                return
            if rules.retentions() != own:  # staff have changed a channel's retention: compute the cuts again
                yield from _batches(is_over, counted)
                return
            # Skip spared messages here, once, and not in every batch, which holds SQLite's write lock.
            if cut.spared and (start := cut.oldest(start or 0)) is None:
                break
            count = log.delete_through(
                cut.through, start=start or 0, channel=cut.channel, spared=cut.spared, limit=BATCH_MESSAGES
            )
            yield count
            if count < BATCH_MESSAGES:
                break
    counted.complete()


# By the periodic prunings of this process.
_COUNTED = per_process(CountedLog)
on_settings_change(_COUNTED.__init__)  # type: ignore[misc]  # tests also empty the log


def prune_if_due() -> int:
    """Prune, unless another process does so now or did within the last PRUNE_SECONDS. Return how many were deleted.

    Every process with a hub calls it. If it fails, the lease expires, and another process tries.
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

    pruned = prune(pause_seconds=0.01, goes_on=is_still_ours, counted=_COUNTED)
    leases.release(LEASE, holder, rest_seconds=interval)
    return pruned


async def prune_periodically() -> None:
    """Run prune_if_due() away from the event loop."""
    await executor.run(prune_if_due, pool=executor.WAITING)


def period_seconds() -> float | None:
    """Return how often a process checks if pruning is due, or None if pruning is switched off."""
    interval = settings.PRUNE_SECONDS
    return None if interval is None else min(interval, 60.0)


def _sequenced() -> QuerySet[Message]:
    return Message.objects.using(database()).filter(position__isnull=False)


def _aged(seconds: float, rows: QuerySet[Message]) -> int | None:
    """Return the last position of the run of expired messages at the beginning of `rows`, or None.

    A message with a date in the future does not end the run, and belongs to it if an expired message follows.
    """
    if seconds > LONGEST_SECONDS:
        return None
    limit = clock.stored_now() - datetime.timedelta(seconds=seconds)
    dated = rows.filter(created_at__lte=clock.stored_now()).order_by("position")
    # Check only the oldest message before scanning: created_at has no index, and mostly no message has expired.
    if not dated.annotate(is_expired=Q(created_at__lt=limit)).values_list("is_expired", flat=True).first():
        return None
    newest = log.head().head  # before the next query, which does not see messages that are published after it
    kept = dated.filter(created_at__gte=limit).values_list("position", flat=True).first()
    end = newest if kept is None else kept - 1
    expired = rows.filter(position__lte=end, created_at__lt=limit).order_by("-position")
    return expired.values_list("position", flat=True).first()


def _crowded_channels(keep: int) -> list[str]:
    counted = _sequenced().values("channel").annotate(n=Count("id")).filter(n__gt=keep).order_by("channel")
    return list(counted.values_list("channel", flat=True))


def _new_channels(after: int) -> list[str]:
    """Return the channels with messages above `after`."""
    # Not by GROUP BY or DISTINCT, for which SQLite reads the whole index of channels.
    return sorted({channel for _, channel in _rows_after(after, "channel")})


def _rows_after(position: int, field: str) -> Iterator[tuple[int, Any]]:
    """Yield the positions of the messages after `position`, and one of their fields, in order."""
    rows = Message.objects.using(database()).order_by("position").values_list("position", field)
    while found := list(rows.filter(position__gt=position)[:STEP_MESSAGES]):
        yield from found
        position = found[-1][0]


def _beyond_count(channel: str, keep: int) -> Iterator[Cut]:
    newest_to_go = _sequenced().filter(channel=channel).order_by("-position")[keep : keep + 1]
    for through in filter(None, newest_to_go.values_list("position", flat=True)):
        yield Cut(through, channel, "count")


def _beyond_bytes(limit: int) -> int | None:
    """Return the last position to delete, so that the log holds at most `limit` bytes of data, or None."""
    total = log.size()
    if total - limit > total * DOUBTFUL_SHARE:
        # The stored sum is wrong if rows were deleted in another way. It must not delete messages that could be kept.
        total = log.size(scan=True)
    if total <= limit:
        return None
    # Starting with the oldest message, so that only the messages to delete are read. In steps, because SQLite computes
    # a running sum over the whole log before it returns the first row.
    excess = total - limit
    for position, size in _rows_after(0, "size"):
        excess -= size
        if excess <= 0:
            return position
    return None
