"""Limit the number of streams in this process and for each principal, and how often a principal sends requests."""

from __future__ import annotations

import datetime
import math
import time

from django.db.models import Sum
from django.db.models.functions import Now

from streams.exceptions import HTTPError
from streams.presence.slots import Slot, Slots
from streams.publishing.rate_limit import Buckets
from streams.relay.conf import settings
from streams.relay.models import Generation
from streams.runtime.executor import database
from streams.runtime.resets import on_settings_change, per_process

RETRY_AFTER_SECONDS = 5
BYTES_RETRY_AFTER_SECONDS = 60

_slots = Slots()
_questions = per_process(Buckets)
on_settings_change(_questions.clear)


def take_slot(key: str) -> Slot:
    """Take a connection slot for a stream of a principal, by its `key`. Raises HTTPError: 429."""
    limit, own = settings.RELAY_MAX_STREAMS, settings.RELAY_MAX_STREAMS_PER_USER
    with _slots:
        if _slots.taken(key) >= own:
            raise _too_many(f"You already have {own} answers in progress (STREAMS['RELAY_MAX_STREAMS_PER_USER']).")
        if _slots.total() >= limit:
            raise _too_many(f"This process already relays {limit} answers (STREAMS['RELAY_MAX_STREAMS']).")
        return _slots.take(key)


def count_question(key: str) -> None:
    """Count a request of a principal, by its `key`, in this process. Raises HTTPError: 429.

    After a pause, a principal can send as many requests at once as are allowed in a minute.
    """
    if (limit := settings.RELAY_QUESTIONS_PER_MINUTE) is None:
        return
    if wait := _questions.take(key, 1, limit, time.monotonic()):
        raise HTTPError(
            429,
            "too-many-questions",
            f"You can send {limit} requests per minute (STREAMS['RELAY_QUESTIONS_PER_MINUTE']). Try again later.",
            retry_after_seconds=math.ceil(wait),
        )


def check_generation(key: str, size: int) -> None:
    """Check that a principal can start another generation, whose request has `size` bytes. Raises HTTPError: 429.

    Counts the generations of all processes. Uses the ORM.
    """
    rows = Generation.objects.using(database())
    active = rows.filter(state__in=Generation.ACTIVE)
    own, limit = active.filter(caller=key).count(), settings.RELAY_MAX_STREAMS_PER_USER
    if own >= limit:
        raise _too_many_answers(
            f"You have {own} answers in progress; the limit is {limit} (STREAMS['RELAY_MAX_STREAMS_PER_USER']). Wait "
            "until one has ended, or cancel one."
        )
    if active.count() >= (limit := settings.GENERATION_MAX_ACTIVE):
        raise _too_many_answers(
            f"This site already has {limit} answers in progress (STREAMS['GENERATION_MAX_ACTIVE']). Try again later."
        )
    if (most_bytes := settings.GENERATION_BYTES_PER_HOUR) is not None:
        recent = rows.filter(caller=key, created_at__gt=Now() - datetime.timedelta(hours=1))
        if (recent.aggregate(total=Sum("size"))["total"] or 0) + size > most_bytes:
            raise HTTPError(
                429,
                "too-many-bytes",
                f"Your requests and answers of the last hour would have more than {most_bytes} bytes "
                "(STREAMS['GENERATION_BYTES_PER_HOUR']). Try again later, or send a shorter request.",
                retry_after_seconds=BYTES_RETRY_AFTER_SECONDS,
            )


def places_taken() -> int:
    """Return the number of streams in this process."""
    return _slots.total()


def _too_many_answers(what: str) -> HTTPError:
    return HTTPError(429, "too-many-answers", what, retry_after_seconds=RETRY_AFTER_SECONDS)


def _too_many(what: str) -> HTTPError:
    return HTTPError(
        429, "too-many-streams", f"{what} Try again when one has ended.", retry_after_seconds=RETRY_AFTER_SECONDS
    )
