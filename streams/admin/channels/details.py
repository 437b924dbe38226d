"""Details of channels for the admin, from the log, the settings and presence."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from streams import log, presence
from streams.channels.rules import groups_of
from streams.conf import settings
from streams.log import catalog
from streams.models import ChannelSettings, Message
from streams.policies import get_policy
from streams.presence import totals
from streams.runtime.executor import database

# Counting all messages of a busy channel would take as long as reading them.
COUNT_TO = 10_000


@dataclass(frozen=True, slots=True)
class ChannelDetails:
    """The details of a channel.

    `newest` is the position of its newest message. `connections` is None if the number is not known.
    """

    name: str
    settings: ChannelSettings | None
    newest: int | None
    newest_at: datetime.datetime | None
    count: int
    pruned_through: int
    connections: int | None
    readers: str

    @property
    def title(self) -> str:
        return self.settings.title if self.settings else ""

    @property
    def is_count_limited(self) -> bool:
        """True if there are more messages than were counted."""
        return self.count > COUNT_TO

    @property
    def retention(self) -> str:
        return describe_retention(self.settings)


def details_of_channels(channels: Sequence[str], connections: dict[str, int]) -> list[ChannelDetails]:
    """Return the details of `channels`, in their order. The number of queries does not depend on their number."""
    summaries = catalog.summaries(channels, count_to=COUNT_TO + 1)
    rows = ChannelSettings.objects.using(database()).in_bulk(channels)
    newest = [summary.newest for summary in summaries.values() if summary.newest is not None]
    stored = Message.objects.using(database()).filter(position__in=newest)
    times = dict(stored.values_list("position", "created_at"))
    pruned = log.pruned(channels, 0)
    policy = get_policy()
    # If a channel is not listed, it has no connections, or their number is not known.
    unlisted = 0 if all(connections.get(name) for name in channels) or totals.is_audience_complete() else None
    return [
        ChannelDetails(
            name=name,
            settings=rows.get(name),
            newest=summaries[name].newest,
            newest_at=times.get(summaries[name].newest),
            count=summaries[name].count,
            pruned_through=pruned.get(name, 0),
            connections=connections.get(name) or unlisted,
            readers=policy.describe_readers(name),
        )
        for name in channels
    ]


def channel_details(channel: str) -> ChannelDetails:
    """Return the details of one channel, which does not have to exist."""
    return details_of_channels([channel], presence.audiences([channel]))[0]


# --- Texts ------------------------------------------------------------------------------------------------------------


def describe_seconds(seconds: float | None) -> str:
    """Describe a duration in the largest unit that divides it. None and 0 mean "forever"."""
    if not seconds:
        return _("forever")
    units: dict[int, Callable[[int], str]] = {
        365 * 86_400: lambda n: ngettext("%(n)s year", "%(n)s years", n) % {"n": n},
        86_400: lambda n: ngettext("%(n)s day", "%(n)s days", n) % {"n": n},
        3600: lambda n: ngettext("%(n)s hour", "%(n)s hours", n) % {"n": n},
        60: lambda n: ngettext("%(n)s minute", "%(n)s minutes", n) % {"n": n},
    }
    for unit, words in units.items():
        if seconds % unit == 0:
            return words(int(seconds // unit))
    count = int(seconds) if seconds == int(seconds) else seconds
    return ngettext("%(n)s second", "%(n)s seconds", 1 if count == 1 else 2) % {"n": count}


def describe_message_limit(messages: int | None) -> str:
    """Describe how many messages a channel keeps. None and 0 mean that there is no limit."""
    if not messages:
        return _("any number of messages")
    return ngettext("at most %(n)s message", "at most %(n)s messages", messages) % {"n": f"{messages:,}"}


def describe_retention(own: ChannelSettings | None) -> str:
    """Describe how long a channel keeps messages, and whether that is its own setting or the site's.

    `own` is None for the site's setting.
    """
    own_seconds = own.retention_seconds if own else None
    own_messages = own.retention_messages if own else None
    seconds = settings.RETENTION_SECONDS if own_seconds is None else own_seconds
    messages = settings.RETENTION_MESSAGES_PER_CHANNEL if own_messages is None else own_messages
    words = describe_seconds(seconds)
    if messages:
        words = _("%(time)s, %(count)s") % {"time": words, "count": describe_message_limit(messages)}
    if own_seconds is None and own_messages is None:
        return _("%(retention)s (site setting)") % {"retention": words}
    return _("%(retention)s (own setting)") % {"retention": words}


def describe_settings(row: ChannelSettings | None) -> list[tuple[str, str]]:
    """Return the label and the value of each stored setting. The list is empty if nothing is stored."""
    if row is None:
        return []
    groups = ", ".join(str(group) for group in groups_of(row.channel))
    own = [
        (_("Title"), row.title),
        (_("Readers"), str(row.get_access_display())),
        (_("Groups"), groups),
        (_("Keep messages for"), "" if row.retention_seconds is None else describe_seconds(row.retention_seconds)),
        (
            _("Maximum number of messages"),
            "" if row.retention_messages is None else describe_message_limit(row.retention_messages),
        ),
    ]
    return [(label, value or "–") for label, value in own]
