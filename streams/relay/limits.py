"""Limit the number of streams in this process and for each principal, and how often a principal sends requests."""

from __future__ import annotations

import datetime
import math
import time

from django.db.models import Sum

from streams.exceptions import HTTPError
from streams.presence.slots import Slot, Slots
from streams.publishing.rate_limit import Buckets
from streams.relay.conf import settings
from streams.relay.generations.rows import generation_rows
from streams.relay.models import Generation
from streams.runtime import clock
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
            message = f"You already have {own} answers in progress (STREAMS['RELAY_MAX_STREAMS_PER_USER'])."
            raise _refusal("too-many-streams", f"{message} Try again when one has ended.")
        if _slots.total() >= limit:
            message = f"This process already relays {limit} answers (STREAMS['RELAY_MAX_STREAMS'])."
            raise _refusal("too-many-streams", f"{message} Try again when one has ended.")
        return _slots.take(key)


def count_question(key: str) -> None:
    """Count a request of a principal, by its `key`, in this process. Raises HTTPError: 429.

    After a pause, a principal can send as many requests at once as are allowed in a minute.
    """
    if (limit := settings.RELAY_QUESTIONS_PER_MINUTE) is None:
        return
    if wait := _questions.take(key, 1, limit, time.monotonic()):
        message = f"You can send {limit} requests per minute (STREAMS['RELAY_QUESTIONS_PER_MINUTE']). Try again later."
        raise _refusal("too-many-questions", message, math.ceil(wait))


def check_generation(key: str, size: int) -> None:
    """Check that a principal can start another generation, whose request has `size` bytes. Raises HTTPError: 429.

    Counts the generations of all processes. Uses the ORM.
    """
    active = generation_rows().filter(state__in=Generation.ACTIVE)
    own, limit = active.filter(caller=key).count(), settings.RELAY_MAX_STREAMS_PER_USER
    if own >= limit:
        message = f"You have {own} answers in progress; the limit is {limit} (STREAMS['RELAY_MAX_STREAMS_PER_USER'])."
        raise _refusal("too-many-answers", f"{message} Wait until one has ended, or cancel one.")
    if active.count() >= (limit := settings.GENERATION_MAX_ACTIVE):
        message = f"This site already has {limit} answers in progress (STREAMS['GENERATION_MAX_ACTIVE'])."
        raise _refusal("too-many-answers", f"{message} Try again later.")
    if (max_bytes := settings.GENERATION_BYTES_PER_HOUR) is not None:
        recent = generation_rows().filter(caller=key, created_at__gt=clock.stored_now() - datetime.timedelta(hours=1))
        if (recent.aggregate(total=Sum("size"))["total"] or 0) + size > max_bytes:
            raise _refusal(
                "too-many-bytes",
                f"Your requests and answers of the last hour would have more than {max_bytes} bytes "
                "(STREAMS['GENERATION_BYTES_PER_HOUR']). Try again later, or send a shorter request.",
                BYTES_RETRY_AFTER_SECONDS,
            )


def _refusal(code: str, message: str, retry_after_seconds: int = RETRY_AFTER_SECONDS) -> HTTPError:
    return HTTPError(429, code, message, retry_after_seconds=retry_after_seconds)
