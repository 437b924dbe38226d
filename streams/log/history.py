"""A channel's history, part by part, for the HTTP API. Streams do not use it: they replay by log.page()."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from streams.log.reading import pruned, within_page
from streams.models import Message
from streams.runtime.executor import database


@dataclass(frozen=True, slots=True)
class Entry:
    """A message of a channel's history."""

    position: int
    event: str
    data: str
    created_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class Part:
    """Messages of a channel in the log's order.

    `first` and `last` are the positions between which they were read; messages that were pruned during the read are
    missing. `more`: True if there are messages beyond. `pruned`: the newest pruned position after the start, or None.
    """

    entries: list[Entry]
    first: int | None
    last: int | None
    more: bool
    pruned: int | None


def read(channel: str, *, after: int, before: int, limit: int, newest: bool = False) -> Part:
    """Return the oldest `limit` messages of `channel` between two positions, or the `newest`; fewer if they are large.

    The messages are read first and the pruning records second, as in log.page().
    """
    rows = Message.objects.using(database()).filter(channel=channel)
    within = rows.filter(position__gt=after, position__lt=before).order_by("-position" if newest else "position")
    found = list(within.values_list("position", "event", "created_at", "size")[: limit + 1])
    taken = within_page(found[:limit])
    places = [row[0] for row in taken]
    texts = dict(rows.filter(position__in=places).values_list("position", "data"))
    entries = [Entry(place, event, texts[place], at) for place, event, at, _ in sorted(taken) if place in texts]
    first, last = min(places, default=None), max(places, default=None)
    return Part(entries, first, last, len(found) > len(taken), pruned([channel], after).get(channel))
