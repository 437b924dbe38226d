"""What becomes of generations that nobody attends to: dead workers, and answers that are old.

Every process that streams does it now and then, and every worker; what must happen once is settled at the row's lock.
"""

from __future__ import annotations

import datetime
import logging
import time

from django.db.models import Q
from django.db.models.functions import Now

from streams import log
from streams.relay import generations
from streams.relay.conf import settings
from streams.relay.models import Generation
from streams.threads import database

logger = logging.getLogger("streams.relay")

State = Generation.State

# What one look takes at most, so that no chore holds its thread for long.
MOST_AT_ONCE = 100
BATCH_MESSAGES = 500

# Until when, by time.monotonic(), no lease counts as run out: the database was away, and nobody could renew his.
_patient_until = 0.0


def attend() -> bool:
    """Interrupt what dead workers have left. Returns whether a generation waits for a worker."""
    global _patient_until
    try:
        open_ones = Q(state=State.QUEUED) | Q(state=State.RUNNING, lease_until__lt=Now())
        found = dict(_rows().filter(open_ones).values_list("pk", "state")[:MOST_AT_ONCE])
    except Exception:
        _patient_until = time.monotonic() + settings.GENERATION_LEASE_SECONDS
        raise
    expired = [pk for pk, state in found.items() if state == State.RUNNING]
    for pk in expired:
        _interrupt(pk)
    return len(found) > len(expired)


def attend_to(generation: Generation) -> bool:
    """Interrupt one generation if a dead worker has left it. Whether it has ended."""
    is_dead = _rows().filter(pk=generation.pk, state=State.RUNNING, lease_until__lt=Now()).exists()
    return is_dead and _interrupt(generation.pk)


def _interrupt(pk: str) -> bool:
    if time.monotonic() < _patient_until:
        return False
    try:
        ended = not generations.interrupt(pk).is_active
    except Generation.DoesNotExist:  # deleted meanwhile
        return False
    if ended:
        logger.warning("The answer %s was interrupted: nobody has renewed its lease.", pk)
    return ended


def tidy() -> None:
    """Compact what ended GENERATION_COMPACT_SECONDS ago, and delete what ended GENERATION_RETENTION_SECONDS ago."""
    if (seconds := settings.GENERATION_RETENTION_SECONDS) is not None:
        for generation in _ended_before(seconds)[:MOST_AT_ONCE]:
            _delete_messages(generation)
            generations.delete(generation.pk)
    if (seconds := settings.GENERATION_COMPACT_SECONDS) is not None:
        for generation in _ended_before(seconds).filter(compacted_at=None)[:MOST_AT_ONCE]:
            _delete_messages(generation)
            generations.mark_compacted(generation.pk)


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


def _rows() -> generations.Rows:
    return Generation.objects.using(database())


def _ended_before(seconds: float) -> generations.Rows:
    ended = _rows().filter(ended_at__lt=Now() - datetime.timedelta(seconds=seconds))
    return ended.order_by("ended_at").defer("request", "text")
