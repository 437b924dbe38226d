"""Queries about the contents of the log: which channels it has, how many messages each has, and of which types.

Delivery does not use them. As in `streams.log`, they run on the calling thread's connection and can block.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from django.db import connections

from streams import log
from streams.models import ChannelSettings
from streams.runtime.executor import database

# Sorts after every character that channel names can have.
_AFTER_NAMES = "~"


def channel_names(*, after: str = "", prefix: str = "", limit: int) -> list[str]:
    """Return the first `limit` names after `after` that start with `prefix`, sorted, of channels with messages.

    The query skips from name to name in the index, so that its cost depends on the number of names that it returns.
    """
    first = ">" if after >= prefix else ">="
    end = prefix + _AFTER_NAMES
    with connections[database()].cursor() as cursor:
        cursor.execute(
            f"""
            WITH RECURSIVE names(channel, n) AS (
                SELECT (SELECT min(channel) FROM streams_message WHERE channel {first} %s AND channel < %s), 1
                UNION ALL
                SELECT (SELECT min(channel) FROM streams_message WHERE channel > names.channel AND channel < %s), n + 1
                FROM names WHERE names.channel IS NOT NULL AND n < %s
            )
            SELECT channel FROM names WHERE channel IS NOT NULL
            """,  # noqa: S608 - fixed texts
            [max(after, prefix), end, end, limit],
        )
        return [name for (name,) in cursor.fetchall()]


def known_names(subscribed: Collection[str], *, after: str = "", prefix: str = "", limit: int) -> list[str]:
    """Return names as channel_names() does, also of channels that have settings or are in `subscribed`."""
    settings = ChannelSettings.objects.using(database()).filter(
        channel__gt=after, channel__gte=prefix, channel__lt=prefix + _AFTER_NAMES
    )
    names = {
        *channel_names(after=after, prefix=prefix, limit=limit),
        *settings.order_by("channel").values_list("channel", flat=True)[:limit],
        *(name for name in subscribed if name > after and name.startswith(prefix)),
    }
    return sorted(names)[:limit]


@dataclass(frozen=True, slots=True)
class Summary:
    """A channel's newest position, and its number of messages, counted up to a limit."""

    newest: int | None
    count: int


def summaries(names: Sequence[str], *, count_to: int) -> dict[str, Summary]:
    """Return {channel: summary}, by one query that reads at most `count_to` index entries for each channel."""
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
    """Return the event types of the newest `count` messages of each of `channels`."""
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
    """Return {event type: its first position} for the messages of `channels` above the position `after`.

    At most `limit` messages are read. The second value is the position up to which the result is complete.
    """
    through = log.head().head
    rows = log.rows_of(channels, limit, after=after, through=through, columns="position, event")
    types: dict[str, int] = {}
    for position, event in rows:
        types.setdefault(event, position)
    return types, rows[-1][0] if len(rows) == limit else through
