"""A channel's history, part by part, for whoever looks back. Streams do not need it: they replay by log.page()."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from streams import log
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
    """Messages of a channel in the log's order, from which position to which they were read (that of the first may be
    gone: what was pruned meanwhile is not among them), whether there are `more` beyond, and the newest position at or
    above their beginning that was `pruned`."""

    entries: list[Entry]
    first: int | None
    last: int | None
    more: bool
    pruned: int | None


def read(channel: str, *, after: int, before: int, limit: int, newest: bool = False) -> Part:
    """The oldest `limit` messages of `channel` between two positions, or the `newest`; fewer where they are large.

    The messages are read first and what was pruned second, as log.page() does: what this read may have missed is known.
    """
    rows = Message.objects.using(database()).filter(channel=channel)
    within = rows.filter(position__gt=after, position__lt=before).order_by("-position" if newest else "position")
    found = list(within.values_list("position", "event", "created_at", "size")[: limit + 1])
    taken: list[tuple[Any, ...]] = []
    left = log.PAGE_BYTES
    for row in found[:limit]:
        left -= row[-1]
        if taken and left < 0:
            break
        taken.append(row)
    texts = dict(rows.filter(position__in=[row[0] for row in taken]).values_list("position", "data"))
    entries = [Entry(place, event, texts[place], at) for place, event, at, _ in sorted(taken) if place in texts]
    places = [row[0] for row in taken]
    first, last = min(places, default=None), max(places, default=None)
    return Part(entries, first, last, len(found) > len(taken), log.pruned([channel], after).get(channel))
