"""How many connections a broadcast has reached: for a while after it was sent, each process counts its own.

A connection counts once its server has taken one of the broadcast's messages from us, and once for all of them.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from streams import broadcasts, clock, presence, threads
from streams.conf import settings
from streams.models import Delivery
from streams.threads import database

# How long after sending the processes count whom they have handed it to.
COUNTED_SECONDS = 30


def chore_seconds() -> float:
    """How often a process counts: also where it polls the log seldom, several times while it is counted."""
    return min(settings.POLL_SECONDS, COUNTED_SECONDS / 5)


async def count_as_chore() -> None:
    """Count whom this process has handed what was sent a moment ago."""
    # The write can wait for a lock.
    if more := _count(await threads.run(_counted, pool=threads.CHORES)):
        await threads.run(_store, more, pool=threads.WAITING)


def _counted() -> dict[int, dict[str, int]]:
    """{broadcast: {channel: position}} of those that were sent lately."""
    since = clock.now() - datetime.timedelta(seconds=COUNTED_SECONDS)
    return {broadcast.pk: broadcast.places for broadcast in broadcasts.sent_since(since).only("channels", "positions")}


# {broadcast: numbers of this process's streams that have had it}, of those that are counted now. Who has left since was
# served all the same.
_served: dict[int, set[int]] = {}


def _count(counted: Mapping[int, Mapping[str, int]]) -> dict[int, int]:
    """{broadcast: how many streams of this process have had it}, of those that more have had since the last look."""
    for pk in tuple(_served.keys() - counted.keys()):
        _served.pop(pk, None)  # another event loop of this process may be doing the same
    by_channel: dict[str, list[tuple[int, int]]] = {}
    for pk, places in counted.items():
        for channel, position in places.items():
            by_channel.setdefault(channel, []).append((pk, position))
    more = set()
    for subscriber in presence.subscribers():
        for channel in by_channel.keys() & subscriber.channels:
            for pk, position in by_channel[channel]:
                numbers = _served.setdefault(pk, set())
                if subscriber.number not in numbers and subscriber.has_had(position):
                    numbers.add(subscriber.number)
                    more.add(pk)
    return {pk: len(_served[pk]) for pk in more}


def _store(counted: Mapping[int, int]) -> None:
    node = presence.node_id()
    rows = Delivery.objects.using(database())
    for pk, n in counted.items():
        row = rows.filter(broadcast_id=pk, node=node)
        if not row.filter(connections__lt=n).update(connections=n) and not row.exists():
            rows.bulk_create([Delivery(broadcast_id=pk, node=node, connections=n)], ignore_conflicts=True)
