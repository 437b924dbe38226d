"""The log's list: what it is filtered by, and one page of it, found without counting or passing over the rest.

The table may have many millions of rows, and indexes by position and by (channel, position) alone. So pages go by
position; a type, a text or a day is looked for among a bounded number of messages, and the page says among which.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from django import forms
from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db.models import Max, Min, QuerySet, Sum
from django.db.models.functions import Substr
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from streams import events, log
from streams.admin.pages import users_of
from streams.models import Message
from streams.models.channels import check_channel_name
from streams.subscriber import MAX_POSITION_DIGITS
from streams.templatetags.streams_admin import LONGEST_PART
from streams.threads import database

PAGE_MESSAGES = 100
SHOWN_CHARACTERS = 200

# How many positions one page looks through for what no index finds, and how many bytes of data for a text.
SPAN_POSITIONS = 100_000
SPAN_BYTES = 20_000_000

# Or, if that reaches further, how many messages of one channel: they lie apart, so that each may be a read of its own.
SPAN_OF_CHANNEL = 20_000

# A message's time is that of its insert, its position that of its commit: so far may the two orders differ.
SLACK = datetime.timedelta(days=1)

# How many rows at the edges of a day are looked at, at most, to find where it really begins and ends.
EDGE_POSITIONS = 1_000_000

MAX_WAITING_COUNTED = 100


class FilterForm(forms.Form):
    """What the list is filtered by. All of it may be empty."""

    channel = forms.CharField(
        label=_("Channel"),
        required=False,
        max_length=events.CHANNEL_MAX_LENGTH,
        widget=forms.TextInput(attrs={"list": "known-channels", "autocomplete": "off", "spellcheck": "false"}),
    )
    type = forms.CharField(label=_("Type"), required=False, max_length=events.EVENT_TYPE_MAX_LENGTH, strip=False)
    day = forms.DateField(
        label=_("Day"),
        required=False,
        input_formats=["%Y-%m-%d"],
        widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}),
        validators=[MinValueValidator(datetime.date(1970, 1, 2)), MaxValueValidator(datetime.date(9000, 1, 1))],
        error_messages={"invalid": _("A day is written as 2026-01-31.")},
    )
    text = forms.CharField(label=_("Text in the data"), required=False, max_length=200, strip=False)

    def clean_channel(self) -> str:
        name: str = self.cleaned_data["channel"]
        if name:
            check_channel_name(name)
        return name

    def filters(self) -> Filters | None:
        """None where something in the form is wrong."""
        if not self.is_valid():
            return None
        given = self.cleaned_data
        return Filters(given["channel"], given["type"], given["day"], given["text"])


@dataclass(frozen=True, slots=True)
class Filters:
    """What a message must be to be listed; what is empty asks for nothing."""

    channel: str = ""
    event: str = ""
    day: datetime.date | None = None
    text: str = ""

    @property
    def narrow(self) -> bool:
        """Whether something is asked that no index finds."""
        return bool(self.event or self.text or self.day)


@dataclass(frozen=True, slots=True)
class Listing:
    """One page, newest first. `older` and `newer`: the positions from which to go on, where there is something.

    `looked`: the first and the last position of what was looked through, where that was not all there is; `back`:
    whether it goes on from there towards the older ones.
    """

    rows: list[dict[str, Any]]
    older: int | None = None
    newer: int | None = None
    looked: tuple[int, int] | None = None
    back: bool = True


def position_in(text: str | None) -> int | None:
    """A position as a URL has it; None for anything else."""
    fits = text is not None and text.isascii() and text.isdigit() and len(text) <= MAX_POSITION_DIGITS
    return int(text) if fits and text is not None else None


def waiting() -> int:
    """How many messages wait to be sequenced; MAX_WAITING_COUNTED stands for so many or more."""
    rows = Message.objects.using(database()).filter(position__isnull=True).order_by("id")
    return len(rows.values_list("id", flat=True)[:MAX_WAITING_COUNTED])


def listing(filters: Filters, *, before: int | None = None, after: int | None = None) -> Listing:
    """The newest messages below `before`, or the oldest above `after`, or the newest of all."""
    rows = _indexed(filters)
    if rows is None:
        return Listing([])
    if after is None:
        return _older(rows, filters, before)
    page = _newer(rows, filters, after)
    if page.newer is not None or after == 0 or filters.narrow:
        return page
    # Not a page of the two or three that are newer: the newest page, which has them as well.
    return _older(rows, filters, None)


def _older(rows: QuerySet[Message], filters: Filters, before: int | None) -> Listing:
    below = rows if before is None else rows.filter(position__lt=before)
    # The next that exists: what was pruned is passed over, and does not count as looked through.
    start = _first(below.order_by("-position"))
    newer = None if before is None else before - 1
    if start is None:
        return Listing([], newer=newer)
    low = _reach(below, filters, start, back=True) if filters.narrow else 0
    matching = _matching(below.filter(position__gte=low), filters)
    found = list(_fields(matching.order_by("-position"))[: PAGE_MESSAGES + 1])
    full = len(found) > PAGE_MESSAGES
    found = _with_users(found[:PAGE_MESSAGES])
    reached = found[-1]["position"] if full else low
    goes_on = full or (filters.narrow and _first(rows.filter(position__lt=reached).order_by("-position")) is not None)
    return Listing(
        found,
        older=reached if goes_on else None,
        newer=newer,
        looked=(low, start) if goes_on and not full else None,
    )


def _newer(rows: QuerySet[Message], filters: Filters, after: int) -> Listing:
    above = rows.filter(position__gt=after)
    older = None if _first(rows.filter(position__lte=after).order_by("-position")) is None else after + 1
    start = _first(above.order_by("position"))
    if start is None:
        return Listing([], older=older, back=False)
    high = _reach(above, filters, start, back=False) if filters.narrow else None
    matching = _matching(above if high is None else above.filter(position__lte=high), filters)
    found = list(_fields(matching.order_by("position"))[: PAGE_MESSAGES + 1])
    full = len(found) > PAGE_MESSAGES
    found = _with_users(found[:PAGE_MESSAGES][::-1])
    reached = found[0]["position"] if full else high
    goes_on = full or (
        reached is not None and _first(rows.filter(position__gt=reached).order_by("position")) is not None
    )
    return Listing(
        found,
        older=older,
        newer=reached if goes_on else None,
        looked=(start, high) if goes_on and not full and high is not None else None,
        back=False,
    )


def _indexed(filters: Filters) -> QuerySet[Message] | None:
    """The rows that the indexes find: of the channel, and within the day's positions. None where there are none."""
    rows = Message.objects.using(database()).filter(position__isnull=False)
    if filters.day:
        bounds = _bounds_of_day(*_times(filters.day))
        if bounds is None:
            return None
        rows = rows.filter(position__gte=bounds[0], position__lte=bounds[1])
    return rows.filter(channel=filters.channel) if filters.channel else rows


def _matching(rows: QuerySet[Message], filters: Filters) -> QuerySet[Message]:
    """What is asked beyond that."""
    if filters.event:
        rows = rows.filter(event=filters.event)
    if filters.day:
        start, end = _times(filters.day)
        rows = rows.filter(created_at__gte=start, created_at__lt=end)
    return rows.filter(data__icontains=filters.text) if filters.text else rows


def _reach(rows: QuerySet[Message], filters: Filters, start: int, *, back: bool) -> int:
    """The position through which one page looks, from `start` on: nearer where the messages are large."""
    part = 1
    while True:
        span = SPAN_POSITIONS // part
        end = max(start - span + 1, 1) if back else start + span - 1
        if filters.channel:
            # rows are of the channel alone, and its index has them in this order.
            positions = rows.order_by("-position" if back else "position").values("position")
            nth = positions[: max(SPAN_OF_CHANNEL // part, 1)].aggregate(low=Min("position"), high=Max("position"))
            end = min(end, nth["low"] or end) if back else max(end, nth["high"] or end)
        low, high = (end, start) if back else (start, end)
        if not filters.text or span <= PAGE_MESSAGES:
            return end
        within = rows.filter(position__gte=low, position__lte=high)
        if (within.aggregate(total=Sum("size"))["total"] or 0) <= SPAN_BYTES:
            return end
        part *= 10


def _first(rows: QuerySet[Message]) -> int | None:
    # By an order, also where any row would do: without one PostgreSQL may go through the table, for what is at its end.
    return rows.values_list("position", flat=True).first()


def _fields(rows: QuerySet[Message]) -> Any:
    # Not the whole data: a page of large messages would be megabytes.
    start = Substr("data", 1, SHOWN_CHARACTERS + LONGEST_PART)
    names = ("pk", "position", "channel", "event", "size", "created_at", "published_by_id")
    return rows.annotate(start=start).values(*names, "start")


def _with_users(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    users = users_of(row["published_by_id"] for row in found)
    for row in found:
        row["published_by"] = users.get(row["published_by_id"])
    return found


# --- A day ------------------------------------------------------------------------------------------------------------


def _times(day: datetime.date) -> tuple[datetime.datetime, datetime.datetime]:
    """When a day begins and ends in the current time zone."""
    starts = [datetime.datetime.combine(day + datetime.timedelta(days=n), datetime.time.min) for n in (0, 1)]
    start, end = map(timezone.make_aware, starts) if settings.USE_TZ else starts
    return start, end


def _bounds_of_day(start: datetime.datetime, end: datetime.datetime) -> tuple[int, int] | None:
    """The positions between which all messages of [start, end) lie; None where there are none.

    Times have no index, but they grow with the positions, nearly. So the day is found by halving, with a margin on both
    sides, and then its first and its last message within that.
    """
    head = log.head().head
    low, high = _first_since(start - SLACK, head), _first_since(end + SLACK, head) - 1
    rows = Message.objects.using(database()).filter(created_at__gte=start, created_at__lt=end)
    last = _first(rows.filter(position__gte=max(low, high - EDGE_POSITIONS), position__lte=high).order_by("-position"))
    first = _first(rows.filter(position__gte=low, position__lte=min(high, low + EDGE_POSITIONS)).order_by("position"))
    low = low + EDGE_POSITIONS + 1 if first is None else first
    high = high - EDGE_POSITIONS - 1 if last is None else last
    return (low, high) if low <= high else None


def _first_since(moment: datetime.datetime, head: int) -> int:
    """The position at which messages of `moment` and later begin; head + 1 where there are none."""
    rows = Message.objects.using(database()).order_by("position").values_list("position", "created_at")
    low, high = 0, head + 1
    while low < high:
        middle = (low + high) // 2
        # Pruning leaves holes: the next that exists speaks for the place.
        following = rows.filter(position__gte=middle).first()
        if following is None or following[0] is None or following[1] >= moment:
            high = middle
        else:
            low = following[0] + 1
    return low
