"""End generations whose worker is dead or that no worker has claimed, and compact and delete old ones.

Every process with open streams does this periodically, and every worker. The lock of the generation's row makes sure
that each step happens once.
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


# For each generation without a worker: its key, its state, True if it has waited for too long, and its lease.
Found = list[tuple[str, str, bool, datetime.datetime | None]]


def reap() -> bool:
    """End generations without a worker whose time has come. Return True if a generation waits for a worker."""
    return settle(look())


def look() -> Found:
    """Return the generations that have no worker. Never waits for a lock."""
    # One query, because every process sends it every second. Running generations come before queued ones.
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
    """End the generations from look() whose time has come. Return True if a generation waits for a worker.

    Can wait for a row that another transaction has locked.
    """
    is_waiting = False
    for pk, state, is_overdue, lease in found:
        try:
            if not _settle(pk, state, is_overdue, lease) and state == State.QUEUED:
                is_waiting = True
        except Exception:  # go on with the others
            logger.exception("Could not end the answer %s.", pk)
    return is_waiting


def reap_one(generation: Generation) -> bool:
    """End one generation, as chunks.get() has read it, if its time has come. Return True if it was ended."""
    is_open = generation.is_deserted or generation.state == State.QUEUED
    return is_open and _settle(generation.pk, generation.state, generation.is_overdue, generation.lease_until)


def _settle(pk: str, state: str, is_overdue: bool, lease: datetime.datetime | None) -> bool:
    """End a generation without a worker, if its time has come. Return True if it has ended."""
    if state == State.QUEUED:
        if not is_overdue:
            return False
        limit = settings.GENERATION_QUEUE_SECONDS
        end, why = store.give_up, f"no worker has claimed it within {limit:g} s. Start more workers (run_generations)."
    else:
        now = time.monotonic()
        seen, seen_at = _deserted.setdefault(pk, (lease, now))
        if seen != lease:  # it was renewed, and has expired again
            seen_at = now
            _deserted[pk] = (lease, now)
        if now - seen_at < CONFIRM_SECONDS:
            return False
        end, why = store.interrupt, "its worker did not renew its lease."
    try:
        has_ended = not end(pk).is_active
    except Generation.DoesNotExist:  # it was deleted in between
        has_ended = True
    _deserted.pop(pk, None)
    if has_ended:
        logger.warning("Ended the answer %s: %s", pk, why)
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
    ended = generation_rows().filter(ended_at__lt=Now() - datetime.timedelta(seconds=seconds))
    return ended.order_by("ended_at").defer("request", "text")
