"""The result of a diagnosis, and texts that several kinds of findings share."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import partial

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from streams.models import Message
from streams.runtime.executor import database

# Messages are counted up to this number.
MAX_COUNTED = 10_000

# How much of an untrusted text is shown.
SHOWN_CHARACTERS = 100


class Verdict(enum.Enum):
    """GOOD: no obstacle. BAD: a reason why the message was not received. NOTE: a possible reason, to be checked."""

    GOOD = "good"
    BAD = "bad"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `remedy` says what to do about it; "" if there is nothing to do."""

    verdict: Verdict
    sentence: str
    remedy: str = ""


good, bad, note = partial(Finding, Verdict.GOOD), partial(Finding, Verdict.BAD), partial(Finding, Verdict.NOTE)


def count_messages(channel: str, after: int, through: int, limit: int) -> int:
    """Count the channel's messages in (after, through], up to `limit`. Return limit + 1 if there are more."""
    rows = Message.objects.using(database()).filter(channel=channel, position__gt=after, position__lte=through)
    return rows.order_by("position")[: limit + 1].count()


def describe_count(n: int) -> str:
    """Describe a number of messages that precede the one in question."""
    if n > MAX_COUNTED:
        return _("more than %(n)d other messages of this channel") % {"n": MAX_COUNTED}
    return ngettext("%(n)d other message of this channel", "%(n)d other messages of this channel", n) % {"n": n}
