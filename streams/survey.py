"""What the log holds, for people who look at it: which channels, how much of each, which types of event.

Reads alone, none of which delivery needs. Like those of log.py they run on the calling thread's connection, and may
block.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections
from django.db.models import Q

from streams import log
from streams.models import ChannelSettings
from streams.threads import database

# Names that a search by prefix looks through at most.
MAX_NAMES = 100_000


def channel_names(
    *, after: str = "", start: str = "", prefix: str = "", limit: int, most: int = MAX_NAMES
) -> list[str]:
    """Return the names of channels that have messages in the log and begin with `prefix`, in the database's order.

    They are those after `after`, or else from `start` on. The query skips from name to name by the index, so that its
    cost depends on the number of names.

    With a prefix, it looks at no more than `most` names: in most collations names with the same beginning lie apart.
    """
    condition = "channel > %s" if after else "channel >= %s"
    is_found = "CASE WHEN substr(channel, 1, %s) = %s THEN 1 ELSE 0 END"
    begins: tuple[Any, ...] = (len(prefix), prefix)
    with connections[database()].cursor() as cursor:
        cursor.execute(
            f"""
            WITH RECURSIVE names(channel, n, found) AS (
                SELECT (SELECT min(channel) FROM streams_message WHERE {condition}), 1, 0
                UNION ALL
                SELECT (SELECT min(channel) FROM streams_message WHERE channel > names.channel),
                    n + 1, found + {is_found}
                FROM names WHERE names.channel IS NOT NULL AND n < %s AND found + {is_found} < %s
            )
            SELECT channel FROM names WHERE channel IS NOT NULL AND substr(channel, 1, %s) = %s
            """,  # noqa: S608 - fixed texts
            [after or start or prefix, *begins, most, *begins, limit, *begins],
        )
        return [name for (name,) in cursor.fetchall()]


def names_in_order(names: Collection[str], *, after: str = "", limit: int) -> list[str]:
    """Those of `names` that come after `after`, each once, in the order in which the database has names: what several
    of its tables gave, page by page, can only be put together in that order. Python's would lose some."""
    unnested: dict[str, tuple[str, Any]] = {
        "postgresql": ("unnest(%s::text[]) AS known(name)", list(names)),
        "sqlite": ("(SELECT value AS name FROM json_each(%s)) AS known", json.dumps(list(names))),
    }
    source, value = unnested[connections[database()].vendor]
    with connections[database()].cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT name FROM {source} WHERE name > %s ORDER BY name LIMIT %s",  # noqa: S608 - fixed texts
            [value, after, limit],
        )
        return [name for (name,) in cursor.fetchall()]


def known_names(
    listened: Collection[str],
    *,
    after: str = "",
    start: str = "",
    prefix: str = "",
    limit: int,
    most: int = MAX_NAMES,
) -> list[str]:
    """Return the names of all channels that are known, in the database's order: those that have messages or settings,
    and those that are `listened` to. No more than `most` names of the log are looked at.

    Without `after`, the names of the log and of the settings are those from `start` on.
    """
    in_log = channel_names(after=after, start=start, prefix=prefix, limit=limit, most=most)
    begin = {"channel__gt": after} if after else {"channel__gte": start}
    settled = ChannelSettings.objects.using(database()).filter(**begin).order_by("channel")
    if prefix:
        # Looked through here: SQLite's LIKE takes upper case for lower.
        settled_names = settled.filter(channel__startswith=prefix).values_list("channel", flat=True)
        in_settings = [name for name in settled_names if name.startswith(prefix)][:limit]
    else:
        in_settings = list(settled.values_list("channel", flat=True)[:limit])
    heard = [name for name in listened if name.startswith(prefix)]
    return names_in_order({*in_log, *in_settings, *heard}, after=after, limit=limit)


@dataclass(frozen=True, slots=True)
class Summary:
    """What the log holds of a channel: its newest position, and how many messages, counted to a limit."""

    newest: int | None
    count: int


def summaries(names: Sequence[str], *, count_to: int) -> dict[str, Summary]:
    """{channel: summary} in one query, which reads at most `count_to` index entries for each channel."""
    if not names:
        return {}
    with connections[database()].cursor() as cursor:
        rows = " UNION ALL SELECT ".join(["%s AS name"] * len(names))
        cursor.execute(
            f"""
            SELECT name, (SELECT max(position) FROM streams_message WHERE channel = name), (
                SELECT count(*) FROM (
                    SELECT 1 FROM streams_message WHERE channel = name AND position IS NOT NULL LIMIT %s
                ) AS counted
            ) FROM (SELECT {rows}) AS names
            """,  # noqa: S608 - placeholders
            [count_to, *names],
        )
        return {name: Summary(newest, count) for name, newest, count in cursor.fetchall()}


def types_of_newest(channels: Collection[str], count: int) -> set[str]:
    """The types among the newest `count` messages of each of `channels`."""
    if not channels:
        return set()
    newest = """
        SELECT event FROM (
            SELECT event FROM streams_message WHERE channel = %s AND position IS NOT NULL
            ORDER BY position DESC LIMIT %s
        ) AS newest
    """
    with connections[database()].cursor() as cursor:
        parts = [value for name in channels for value in (name, count)]
        cursor.execute(" UNION ".join([newest] * len(channels)), parts)
        return {event for (event,) in cursor.fetchall()}


def first_of_types(channels: Collection[str], after: int, limit: int) -> tuple[dict[str, int], int]:
    """The types of the messages of `channels` above `after`, each with its first position, and how far that holds: to
    the head, or for the oldest `limit` messages."""
    through = log.head().head
    within = Q(position__gt=after, position__lte=through)
    rows = log.rows_of(channels, within, "position", limit, fields=("position", "event"))
    types: dict[str, int] = {}
    for position, event in rows:
        types.setdefault(event, position)
    return types, rows[-1][0] if len(rows) == limit else through
