"""End generations whose worker is dead or that no worker has claimed, and compact and delete old ones.

Every process with open streams does this periodically, and every worker. The lock of the generation's row makes sure
that each step happens once.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Iterable, Iterator, Mapping

from django.db.models import Count, Q

from streams import log
from streams.relay.conf import settings
from streams.relay.generations import store
from streams.relay.generations.chunks import DESERTED, with_deadlines
from streams.relay.generations.rows import Rows, generation_rows
from streams.relay.models import Generation
from streams.runtime import clock
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams.relay")

State = Generation.State

# The limits of one query, and of one transaction.
MOST_AT_ONCE = 100
BATCH_MESSAGES = 500

# The time limit of one run of compact().
COMPACT_SECONDS = 10.0

# A generation is only ended if every look() in this period has found its lease expired. The database can have been
# away, and then living workers are about to renew their leases: they try every second.
CONFIRM_SECONDS = 3.0

# {generation: (the lease that this process has found expired, time.monotonic() of the first time)}
_deserted: dict[str, tuple[datetime.datetime | None, float]] = {}
_looked_at = 0.0


def reap() -> bool:
    """End generations without a worker whose time has come. Return True if a generation waits for a worker."""
    return settle(look())


def look() -> list[Generation]:
    """Return the generations that have no worker. Never waits for a lock."""
    # One query, because every process sends it every second. Running generations come before queued ones.
    waiting = generation_rows().filter(state__in=Generation.ACTIVE).filter(DESERTED | Q(state=State.QUEUED))
    waiting = with_deadlines(waiting.only("pk", "state", "lease_until"))
    found = list(waiting.order_by("-state", "created_at")[:MOST_AT_ONCE])
    global _looked_at
    had_a_pause, _looked_at = time.monotonic() - _looked_at > CONFIRM_SECONDS, time.monotonic()
    deserted = {generation.pk for generation in found if generation.is_deserted}
    for pk in set(_deserted) if had_a_pause else set(_deserted) - deserted:
        _deserted.pop(pk, None)
    return found


def settle(found: Iterable[Generation]) -> bool:
    """End the generations from look() whose time has come. Return True if a generation waits for a worker.

    Can wait for a row that another transaction has locked.
    """
    is_waiting = False
    for generation in found:
        try:
            if not reap_one(generation) and generation.state == State.QUEUED:
                is_waiting = True
        except Exception:  # go on with the others
            logger.exception("Could not end the answer %s.", generation.pk)
    return is_waiting


def reap_one(generation: Generation) -> bool:
    """End a generation that has no worker, if its time has come. Return True if it has ended.

    The generation has the attributes that chunks.with_deadlines() adds.
    """
    pk = generation.pk
    if generation.is_overdue:
        limit = settings.GENERATION_QUEUE_SECONDS
        end, why = store.give_up, f"no worker has claimed it within {limit:g} s. Start more workers (run_generations)."
    elif generation.is_deserted:
        seen = (generation.lease_until, time.monotonic())
        first_seen = _deserted.setdefault(pk, seen)
        if first_seen[0] != generation.lease_until:  # it was renewed, and has expired again
            first_seen = _deserted[pk] = seen
        if seen[1] - first_seen[1] < CONFIRM_SECONDS:
            return False
        end, why = store.interrupt, "its worker did not renew its lease."
    else:
        return False
    try:
        has_ended = not end(pk).is_active
    except Generation.DoesNotExist:  # it was deleted in between
        has_ended = True
    _deserted.pop(pk, None)
    if has_ended:
        logger.warning("Ended the answer %s: %s", pk, why, extra=fields(event="answer-abandoned", generation=pk))
    return has_ended


def count_active() -> Mapping[str, float]:
    """Return {state: number of generations} for the states that are not final."""
    active = generation_rows().filter(state__in=Generation.ACTIVE).order_by()
    found = dict(active.values_list("state").annotate(n=Count("pk")))
    return {str(state): found.get(state, 0) for state in Generation.ACTIVE}


def compact() -> None:
    """Compact what ended GENERATION_COMPACT_SECONDS ago, and delete what ended GENERATION_RETENTION_SECONDS ago."""
    until = time.monotonic() + COMPACT_SECONDS
    if (seconds := settings.GENERATION_RETENTION_SECONDS) is not None:
        for generation in _batches(_ended_before(seconds), until):
            _delete_messages(generation)
            generation_rows().filter(pk=generation.pk).delete()
            log.forget_channel(generation.channel)
    if (seconds := settings.GENERATION_COMPACT_SECONDS) is not None:
        for generation in _batches(_ended_before(seconds).filter(compacted_at=None), until):
            _delete_messages(generation)
            store.mark_compacted(generation.pk)


def _batches(rows: Rows, until: float) -> Iterator[Generation]:
    """Yield the generations of a query that the caller takes out of it, until the time.monotonic() `until`."""
    while time.monotonic() < until and (found := list(rows[:MOST_AT_ONCE])):
        yield from found


def _delete_messages(generation: Generation) -> None:
    """Delete a generation's messages from the log. Its row has the text and the end."""
    assert generation.end_position is not None
    deleted = BATCH_MESSAGES
    while deleted == BATCH_MESSAGES:
        deleted = log.delete_through(
            generation.end_position,
            start=generation.start_position + 1,
            channel=generation.channel,
            limit=BATCH_MESSAGES,
        )


def _ended_before(seconds: float) -> Rows:
    ended = generation_rows().filter(ended_at__lt=clock.stored_now() - datetime.timedelta(seconds=seconds))
    return ended.order_by("ended_at").defer("request", "text")
