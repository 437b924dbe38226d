"""The open streams of all processes. Those of this process are counted in memory, and the others are read from rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from django.db.models import DurationField, ExpressionWrapper, F
from django.db.models.functions import Now

from streams.models import Node
from streams.presence.counter import connections, count, counters, process
from streams.presence.node_row import valid_rows


def nodes() -> list[Node]:
    """Return the processes that stream, each with `silent_for`, the time since it renewed its row."""
    # Both times are from the database's clock, because those of the machines can differ.
    silent_for = ExpressionWrapper(Now() - F("seen_at"), output_field=DurationField())
    return list(valid_rows().annotate(silent_for=silent_for))


def has_connections() -> bool:
    """Return True if any process has an open stream or a hub that runs."""
    return bool(connections()) or bool(valid_rows().exists())


def audience(channel: str) -> int:
    """Return the number of open streams that have `channel`, in all processes.

    A process with more than MAX_CHANNELS channels reports only those with most connections.
    """
    return audiences([channel])[channel]


def audiences(channels: Iterable[str]) -> dict[str, int]:
    """Return {channel: audience(channel)} for several channels, by one query."""
    own = counters()
    totals = {channel: sum(counter.channels[channel] for counter in own) for channel in channels}
    if totals:
        for others in valid_rows().exclude(id=process.node_id).values_list("channels", flat=True):
            for channel in totals:
                totals[channel] += others.get(channel, 0)
    return totals


def is_audience_complete() -> bool:
    """Return False if a process has more than MAX_CHANNELS channels, so that audience() can be too low."""
    return not valid_rows().exclude(id=process.node_id).filter(channels_left_out__gt=0).exists()


def audience_by_channel() -> dict[str, int]:
    """Return {channel: number of open streams} for all channels that the processes report."""
    total = Counter(count().channels)
    for others in valid_rows().exclude(id=process.node_id).values_list("channels", flat=True):
        total.update(others)
    return dict(total)
