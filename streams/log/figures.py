"""Figures of the log for monitoring. Each takes a few index lookups."""

from __future__ import annotations

from collections.abc import Mapping

from streams.channels import rules
from streams.conf import settings
from streams.log.retention import LONGEST_SECONDS
from streams.models import LogHead, Message
from streams.runtime import clock, readings
from streams.runtime.executor import database
from streams.runtime.readings import Reading

# The search ends here: the rest is certainly a problem.
MAX_UNSEQUENCED = 10_000

# How many of the oldest messages are searched for one that has no retention of its own.
OLDEST_MESSAGES = 1000


def head() -> Mapping[str, float]:
    """Return the position of the newest message."""
    return {"": LogHead.objects.using(database()).values_list("head", flat=True).first() or 0}


def unsequenced() -> Mapping[str, float]:
    """Return how many messages wait for a position, at most MAX_UNSEQUENCED."""
    # Without the low-water mark: a message that stays behind is what this looks for.
    waiting = Message.objects.using(database()).filter(position__isnull=True).order_by()
    return {"": waiting[:MAX_UNSEQUENCED].count()}


def pruning_lag() -> Mapping[str, float]:
    """Return by how many seconds the oldest message is older than RETENTION_SECONDS.

    There is no value if messages are kept forever, or if none of the OLDEST_MESSAGES is under RETENTION_SECONDS,
    because their channels have retentions of their own.
    """
    limit = settings.RETENTION_SECONDS
    if limit is None or limit > LONGEST_SECONDS:
        return {}
    own = {channel for channel, kept in rules.retentions().items() if kept.seconds is not None}
    rows = Message.objects.using(database()).filter(position__isnull=False).order_by("position")
    oldest = rows.values_list("channel", "created_at")[: OLDEST_MESSAGES if own else 1]
    created_at = next((created_at for channel, created_at in oldest if channel not in own), None)
    if created_at is None:
        return {} if len(oldest) == OLDEST_MESSAGES else {"": 0.0}
    return {"": max(0.0, (clock.read() - created_at).total_seconds() - limit)}


def register() -> None:
    """Register the figures of the log."""
    readings.register(Reading("log_head", "The position of the newest message.", head))
    text = f"Messages that have no position yet, {MAX_UNSEQUENCED} at most. They are not delivered yet."
    readings.register(Reading("log_unsequenced_messages", text, unsequenced))
    text = "By how many seconds the oldest message is older than RETENTION_SECONDS, by the database's clock."
    readings.register(Reading("pruning_lag_seconds", text, pruning_lag))
