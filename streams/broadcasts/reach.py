"""Count how many connections a broadcast has reached. For a while after sending, each process counts its own.

A connection counts when its server has accepted one of the broadcast's messages. It counts once, even if it has several
of the channels.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from streams.broadcasts.schedule import sent_since
from streams.conf import settings
from streams.models import Delivery
from streams.presence import counter
from streams.runtime import clock, executor
from streams.runtime.executor import database

# How long after sending the processes count.
COUNT_SECONDS = 30


def period_seconds() -> float:
    """Return how often a process counts: several times in COUNT_SECONDS, even if it polls the log less often."""
    return min(settings.POLL_SECONDS, COUNT_SECONDS / 5)


async def count_periodically() -> None:
    """Count the connections of this process that recent broadcasts have reached."""
    # Storing can wait for a lock, so it uses another pool.
    if more := _count(await executor.run(_recent, pool=executor.PERIODIC)):
        await executor.run(_store, more, pool=executor.WAITING)


def _recent() -> dict[int, dict[str, int]]:
    """Return {broadcast pk: {channel: position}} of the broadcasts that are still counted."""
    since = clock.now() - datetime.timedelta(seconds=COUNT_SECONDS)
    rows = sent_since(since).only("channels", "positions")
    return {broadcast.pk: broadcast.positions_by_channel for broadcast in rows}


# {broadcast pk: numbers of this process's streams that have received it}. Streams that have ended since still count.
_reached: dict[int, set[int]] = {}


def _count(recent: Mapping[int, Mapping[str, int]]) -> dict[int, int]:
    """Return {broadcast pk: number of streams of this process that received it}, if the number has grown."""
    for pk in tuple(_reached.keys() - recent.keys()):
        _reached.pop(pk, None)  # another event loop of this process might do the same
    by_channel: dict[str, list[tuple[int, int]]] = {}
    for pk, positions in recent.items():
        for channel, position in positions.items():
            by_channel.setdefault(channel, []).append((pk, position))
    grown = set()
    for subscriber in counter.open_streams():
        for channel in by_channel.keys() & subscriber.channels:
            for pk, position in by_channel[channel]:
                numbers = _reached.setdefault(pk, set())
                if subscriber.number not in numbers and subscriber.has_received(position):
                    numbers.add(subscriber.number)
                    grown.add(pk)
    return {pk: len(_reached[pk]) for pk in grown}


def _store(counts: Mapping[int, int]) -> None:
    node = counter.process.node_id
    rows = Delivery.objects.using(database())
    for pk, n in counts.items():
        row = rows.filter(broadcast_id=pk, node=node)
        if not row.filter(connections__lt=n).update(connections=n) and not row.exists():
            rows.bulk_create([Delivery(broadcast_id=pk, node=node, connections=n)], ignore_conflicts=True)
