"""What becomes of generations that nobody attends to: dead workers, nobody to begin with them, and age.

Every process that streams does it now and then, and every worker; what must happen once is settled at the row's lock.
"""

from __future__ import annotations

import datetime
import logging
import time

from django.db.models import BooleanField, ExpressionWrapper, Q
from django.db.models.functions import Now

from streams import log
from streams.relay.conf import settings
from streams.relay.generations import store
from streams.relay.generations.chunks import DESERTED, overdue
from streams.relay.generations.rows import Rows, generation_rows
from streams.relay.models import Generation

logger = logging.getLogger("streams.relay")

State = Generation.State

# What one look, or one transaction, takes at most.
MOST_AT_ONCE = 100
BATCH_MESSAGES = 500

# How long tidying may go on at a time.
COMPACT_SECONDS = 10.0

# A lease must be seen to have run out for so long, and without a pause. The database may have been away, and living
# workers may be about to renew theirs: they try every second.
CONFIRM_SECONDS = 3.0

# {generation: the lease that this process has seen to have run out, and since when, by time.monotonic()}
_deserted: dict[str, tuple[datetime.datetime | None, float]] = {}
_looked_at = 0.0


# A generation that no worker has: its key, its state, whether it has waited for too long, and its lease.
Found = list[tuple[str, str, bool, datetime.datetime | None]]


def reap() -> bool:
    """End what dead workers have left, and what nobody has taken. Returns whether a generation waits for a worker."""
    return settle(look())


def look() -> Found:
    """Return the generations that no worker has. It waits for no lock."""
    # One query, for every process asks it every second. Those that run before those that are queued.
    waiting = generation_rows().filter(state__in=Generation.ACTIVE).filter(DESERTED | Q(state=State.QUEUED))
    is_overdue_now = ExpressionWrapper(overdue(), output_field=BooleanField())
    columns = ("pk", "state", is_overdue_now, "lease_until")
    found = list(waiting.order_by("-state", "created_at").values_list(*columns)[:MOST_AT_ONCE])
    global _looked_at
    had_a_pause, _looked_at = time.monotonic() - _looked_at > CONFIRM_SECONDS, time.monotonic()
    deserted = {pk for pk, state, *_ in found if state == State.RUNNING}
    for pk in set(_deserted) if had_a_pause else set(_deserted) - deserted:
        _deserted.pop(pk, None)
    return found


def settle(found: Found) -> bool:
    """End those that look() has found and whose time has come. Returns True if a generation waits for a worker.

    It can wait for a row that another transaction has locked.
    """
    is_waiting = False
    for pk, state, is_overdue, lease in found:
        try:
            if not _settle(pk, state, is_overdue, lease) and state == State.QUEUED:
                is_waiting = True
        except Exception:  # the others are not to suffer for it
            logger.exception("The answer %s could not be ended.", pk)
    return is_waiting


def reap_one(generation: Generation) -> bool:
    """See to one generation, as pieces.get() has read it. Whether it has been ended."""
    is_open = generation.is_deserted or generation.state == State.QUEUED
    return is_open and _settle(generation.pk, generation.state, generation.is_overdue, generation.lease_until)


def _settle(pk: str, state: str, is_overdue: bool, lease: datetime.datetime | None) -> bool:
    """End a generation that nobody has, if it is time. Whether it has ended."""
    if state == State.QUEUED:
        if not is_overdue:
            return False
        limit = settings.GENERATION_QUEUE_SECONDS
        end, why = store.give_up, f"no worker has taken it in {limit:g} s. Are there enough (run_generations)?"
    else:
        now = time.monotonic()
        seen, seen_at = _deserted.setdefault(pk, (lease, now))
        if seen != lease:  # renewed since, and deserted again
            seen_at = now
            _deserted[pk] = (lease, now)
        if now - seen_at < CONFIRM_SECONDS:
            return False
        end, why = store.interrupt, "its worker has not renewed the lease."
    try:
        has_ended = not end(pk).is_active
    except Generation.DoesNotExist:  # deleted meanwhile
        has_ended = True
    _deserted.pop(pk, None)
    if has_ended:
        logger.warning("The answer %s was ended: %s", pk, why)
    return has_ended


def compact() -> None:
    """Compact what ended GENERATION_COMPACT_SECONDS ago, and delete what ended GENERATION_RETENTION_SECONDS ago."""
    until = time.monotonic() + COMPACT_SECONDS
    if (seconds := settings.GENERATION_RETENTION_SECONDS) is not None:
        old = _ended_before(seconds)
        while time.monotonic() < until and (found := list(old[:MOST_AT_ONCE])):
            for generation in found:
                _delete_messages(generation)
                store.delete(generation.pk)
                log.forget_channel(generation.channel)
    if (seconds := settings.GENERATION_COMPACT_SECONDS) is not None:
        whole = _ended_before(seconds).filter(compacted_at=None)
        while time.monotonic() < until and (found := list(whole[:MOST_AT_ONCE])):
            for generation in found:
                _delete_messages(generation)
                store.mark_compacted(generation.pk)


def _delete_messages(generation: Generation) -> None:
    """Take a generation's messages from the log; its row has the text, and how it ended."""
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
    ended = generation_rows().filter(ended_at__lt=Now() - datetime.timedelta(seconds=seconds))
    return ended.order_by("ended_at").defer("request", "text")
