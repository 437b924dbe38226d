"""What the admin shows of channels: which there are, and what the log, the settings and presence say of them."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from streams import log, presence, survey
from streams.channels import groups_of
from streams.conf import settings
from streams.models import ChannelSettings, Message
from streams.policies import get_policy
from streams.threads import database

# A full count of a busy channel would take as long as reading it.
COUNT_TO = 10_000


@dataclass(frozen=True, slots=True)
class Facts:
    """A channel, as staff see it. `newest_at`: when its newest message was stored. `listeners`: None: not known."""

    name: str
    settings: ChannelSettings | None
    newest: int | None
    newest_at: datetime.datetime | None
    count: int
    pruned_through: int
    listeners: int | None
    readers: str

    @property
    def title(self) -> str:
        return self.settings.title if self.settings else ""

    @property
    def is_uncounted(self) -> bool:
        """Whether there are more messages than were counted."""
        return self.count > COUNT_TO

    @property
    def retention(self) -> str:
        return retention_in_words(self.settings)


def facts(channels: Sequence[str], listened: dict[str, int]) -> list[Facts]:
    """The facts of `channels`, in their order, by a few queries for all of them together."""
    summaries = survey.summaries(channels, count_to=COUNT_TO + 1)
    rows = ChannelSettings.objects.using(database()).in_bulk(channels)
    newest = [summary.newest for summary in summaries.values() if summary.newest is not None]
    stored = Message.objects.using(database()).filter(position__in=newest)
    times = dict(stored.values_list("position", "created_at"))
    pruned = log.pruned(channels, 0)
    policy = get_policy()
    # Of one that nobody seems to listen to: nobody does, or it is not known.
    unheard = 0 if all(listened.get(name) for name in channels) or presence.is_audience_whole() else None
    return [
        Facts(
            name=name,
            settings=rows.get(name),
            newest=summaries[name].newest,
            newest_at=times.get(summaries[name].newest),
            count=summaries[name].count,
            pruned_through=pruned.get(name, 0),
            listeners=listened.get(name) or unheard,
            readers=policy.readers(name),
        )
        for name in channels
    ]


def facts_of(channel: str) -> Facts:
    """The facts of one channel, which need not exist."""
    return facts([channel], presence.audiences([channel]))[0]


# --- In words ---------------------------------------------------------------------------------------------------------


def seconds_in_words(seconds: float | None) -> str:
    """A length of time, in the largest unit that divides it; None and 0 are for ever."""
    if not seconds:
        return _("for ever")
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


def messages_in_words(messages: int | None) -> str:
    """How many messages a channel keeps; None and 0 are no limit."""
    if not messages:
        return _("any number of messages")
    return ngettext("at most %(n)s message", "at most %(n)s messages", messages) % {"n": f"{messages:,}"}


def site_retention_in_words() -> str:
    return retention_in_words(None)


def retention_in_words(own: ChannelSettings | None) -> str:
    """How long a channel keeps its messages, by its own settings or by the site's, and by which of them."""
    own_seconds = own.retention_seconds if own else None
    own_messages = own.retention_messages if own else None
    seconds = settings.RETENTION_SECONDS if own_seconds is None else own_seconds
    messages = settings.RETENTION_MESSAGES_PER_CHANNEL if own_messages is None else own_messages
    words = seconds_in_words(seconds)
    if messages:
        words = _("%(time)s, %(count)s") % {"time": words, "count": messages_in_words(messages)}
    if own_seconds is None and own_messages is None:
        return _("%(retention)s (the site’s)") % {"retention": words}
    return _("%(retention)s (its own)") % {"retention": words}


def settled_in_words(row: ChannelSettings | None) -> list[tuple[str, str]]:
    """What is stored for a channel, each value with its name. Empty where nothing is."""
    if row is None:
        return []
    groups = ", ".join(str(group) for group in groups_of(row.channel))
    own = [
        (_("Title"), row.title),
        (_("Who may read"), str(row.get_access_display())),
        (_("Groups"), groups),
        (_("Keep messages for"), "" if row.retention_seconds is None else seconds_in_words(row.retention_seconds)),
        (
            _("Keep at most, in messages"),
            "" if row.retention_messages is None else messages_in_words(row.retention_messages),
        ),
    ]
    return [(label, value or "–") for label, value in own]
