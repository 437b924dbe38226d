"""What becomes of generations that nobody attends to: dead workers, and answers that are old.

Every process that streams does it now and then, and every worker; what must happen once is settled at the row's lock.
"""

from __future__ import annotations

import datetime
import logging
import time

from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from streams import log
from streams.relay import generations
from streams.relay.conf import settings
from streams.relay.generations import DESERTED
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
    """End what dead workers have left, and what nobody has taken. Returns whether a generation waits for a worker."""
    global _patient_until
    try:
        # One query, for every process asks it every second. Those that run before those that are queued.
        rows = _rows().filter(DESERTED | Q(state=State.QUEUED)).order_by("-state", "created_at")
        found = list(rows.values_list("state", "pk", "created_at")[:MOST_AT_ONCE])
    except Exception:
        _patient_until = time.monotonic() + settings.GENERATION_LEASE_SECONDS
        raise
    is_waiting = False
    for state, pk, since in found:
        if state == State.RUNNING:
            _interrupt(pk)
        elif not _has_waited(since):
            is_waiting = True
        elif generations.give_up(pk).state == State.FAILED:
            logger.warning("Nobody has taken the answer %s within %g s.", pk, settings.GENERATION_QUEUE_SECONDS)
    return is_waiting


def attend_to(generation: Generation) -> bool:
    """See to one generation. Whether it was ended for that."""
    if generation.state == State.QUEUED and _has_waited(generation.created_at):
        return not generations.give_up(generation.pk).is_active
    return _rows().filter(DESERTED, pk=generation.pk).exists() and _interrupt(generation.pk)


def _has_waited(since: datetime.datetime) -> bool:
    return (timezone.now() - since).total_seconds() > settings.GENERATION_QUEUE_SECONDS


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
