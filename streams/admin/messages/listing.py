"""The list of messages: its filter form, and queries for one page of it.

The table can have many millions of rows, and its only indexes are on the position and on (channel, position). So pages
are delimited by positions, never by counting rows. A search for an event type, a text or a day reads a limited number
of messages, and the page shows which ones were searched.
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

from streams import log
from streams.admin.pages import users_by_pk
from streams.models import Message
from streams.models.channels import check_channel_name
from streams.protocol import events
from streams.protocol.sse import is_position
from streams.runtime.executor import database
from streams.templatetags.streams_admin import LONGEST_PART

PAGE_MESSAGES = 100
SHOWN_CHARACTERS = 200

# The limits of one search without an index: the number of positions, and the bytes of data for a text search.
SPAN_POSITIONS = 100_000
SPAN_BYTES = 20_000_000

# The limit of a search in one channel, if it reaches further. Each of these messages can cost a disk read.
SPAN_OF_CHANNEL = 20_000

# A message gets its time when it is inserted and its position when it is committed. This is the maximum difference.
SLACK = datetime.timedelta(days=1)

# The maximum number of positions to search for the first and the last message of a day.
EDGE_POSITIONS = 1_000_000

MAX_UNSEQUENCED_COUNTED = 100


class FilterForm(forms.Form):
    """The filters of the list. All fields are optional."""

    channel = forms.CharField(
        label=_("Channel"),
        required=False,
        max_length=events.CHANNEL_MAX_LENGTH,
        widget=forms.TextInput(attrs={"list": "known-channels", "autocomplete": "off", "spellcheck": "false"}),
    )
    type = forms.CharField(label=_("Event type"), required=False, max_length=events.EVENT_TYPE_MAX_LENGTH, strip=False)
    day = forms.DateField(
        label=_("Day"),
        required=False,
        input_formats=["%Y-%m-%d"],
        widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}),
        validators=[MinValueValidator(datetime.date(1970, 1, 2)), MaxValueValidator(datetime.date(9000, 1, 1))],
        error_messages={"invalid": _("Enter a date such as 2026-01-31.")},
    )
    text = forms.CharField(label=_("Data contains"), required=False, max_length=200, strip=False)

    def clean_channel(self) -> str:
        name: str = self.cleaned_data["channel"]
        if name:
            check_channel_name(name)
        return name

    def filters(self) -> Filters | None:
        """Return the filters; None if the form is not valid."""
        if not self.is_valid():
            return None
        given = self.cleaned_data
        return Filters(given["channel"], given["type"], given["day"], given["text"])


@dataclass(frozen=True, slots=True)
class Filters:
    """The conditions for a message to be listed. Empty values match all messages."""

    channel: str = ""
    event: str = ""
    day: datetime.date | None = None
    text: str = ""

    @property
    def needs_search(self) -> bool:
        """True if an index cannot find the messages."""
        return bool(self.event or self.text or self.day)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of messages, newest first.

    `older` and `newer` are the positions at which the neighbouring pages start; None if there is no such page.
    `searched` has the first and the last searched position, if the search reached its limit. `backwards` is True if the
    search continues towards older messages.
    """

    rows: list[dict[str, Any]]
    older: int | None = None
    newer: int | None = None
    searched: tuple[int, int] | None = None
    backwards: bool = True


def parse_position(text: str | None) -> int | None:
    """Return the position in a URL parameter; None if it is not valid."""
    return int(text) if text is not None and is_position(text) else None


def count_unsequenced() -> int:
    """Return the number of messages that have no position yet, or MAX_UNSEQUENCED_COUNTED if there are more."""
    rows = Message.objects.using(database()).filter(position__isnull=True).order_by("id")
    return len(rows.values_list("id", flat=True)[:MAX_UNSEQUENCED_COUNTED])


def find_page(filters: Filters, *, before: int | None = None, after: int | None = None) -> Page:
    """Return the newest messages below `before`, or the oldest above `after`, or the newest of all."""
    rows = Message.objects.using(database())
    if filters.channel:
        rows = rows.filter(channel=filters.channel)
    bounds = _positions_of_day(*_day_range(filters.day)) if filters.day else (1, log.MAX_POSITION)
    if bounds is None:
        return Page([])
    low, high = bounds
    if after is not None:
        found, newer, searched = _read(rows, filters, max(low, after + 1), high, backwards=False)
        if newer is not None or after == 0 or filters.needs_search:
            has_older = _first(_between(rows, low, min(high, after)).order_by("-position")) is not None
            older = after + 1 if has_older else None
            return Page(found[::-1], older=older, newer=newer, searched=searched, backwards=False)
        # Instead of a page with the few newest messages, return the newest page, which includes them.
        before = None
    found, older, searched = _read(
        rows, filters, low, high if before is None else min(high, before - 1), backwards=True
    )
    return Page(found, older=older, newer=None if before is None else before - 1, searched=searched)


def _read(
    rows: QuerySet[Message], filters: Filters, low: int, high: int, *, backwards: bool
) -> tuple[list[dict[str, Any]], int | None, tuple[int, int] | None]:
    """Read a page of messages in [low, high], the newest ones if `backwards`, otherwise the oldest ones.

    Return the messages, the position at which the next page in this direction starts (None if there is none), and the
    searched positions as in Page.
    """
    order = "-position" if backwards else "position"
    ahead = _between(rows, low, high).order_by(order)
    # Start at an existing message, so that pruned positions do not count as searched.
    start = _first(ahead)
    if start is None:
        return [], None, None
    first, last, rest = low, high, None
    end = _search_end(ahead, rows, filters, start, backwards=backwards) if filters.needs_search else None
    if end is not None:
        if backwards:
            first, rest = max(low, end), (low, end - 1)
        else:
            last, rest = min(high, end), (end + 1, high)
    within = _between(rows, first, last).order_by(order)
    found = list(_fields(_matching(within, filters))[: PAGE_MESSAGES + 1])
    if len(found) > PAGE_MESSAGES:
        return _with_users(found[:PAGE_MESSAGES]), found[PAGE_MESSAGES - 1]["position"], None
    if end is None or rest is None or _first(_between(rows, *rest).order_by(order)) is None:
        return _with_users(found), None, None
    return _with_users(found), end, (min(start, end), max(start, end))


def _between(rows: QuerySet[Message], low: int, high: int) -> QuerySet[Message]:
    """Return the rows in [low, high]. Call it once for a query.

    Of two upper limits of the position, SQLite uses one for the index, and reads all rows up to this one.
    """
    return rows.filter(position__gte=low, position__lte=high)


def _matching(rows: QuerySet[Message], filters: Filters) -> QuerySet[Message]:
    """Apply the filters for which there is no index."""
    if filters.event:
        rows = rows.filter(event=filters.event)
    if filters.day:
        start, end = _day_range(filters.day)
        rows = rows.filter(created_at__gte=start, created_at__lt=end)
    return rows.filter(data__icontains=filters.text) if filters.text else rows


def _search_end(
    ahead: QuerySet[Message], rows: QuerySet[Message], filters: Filters, start: int, *, backwards: bool
) -> int:
    """Return the last position to search in `ahead`, which are `rows` in order from `start` on.

    Large messages reduce the range.
    """
    part = 1
    while True:
        span = SPAN_POSITIONS // part
        end = max(start - span + 1, 1) if backwards else start + span - 1
        if filters.channel:
            # All rows are of this channel, and its index has this order.
            nth = ahead.values("position")[: max(SPAN_OF_CHANNEL // part, 1)].aggregate(
                low=Min("position"), high=Max("position")
            )
            end = min(end, nth["low"] or end) if backwards else max(end, nth["high"] or end)
        low, high = (end, start) if backwards else (start, end)
        if not filters.text or span <= PAGE_MESSAGES:
            return end
        within = _between(rows, low, high)
        if (within.aggregate(total=Sum("size"))["total"] or 0) <= SPAN_BYTES:
            return end
        part *= 10


def _first(rows: QuerySet[Message]) -> int | None:
    # Without an order, PostgreSQL might scan the table for a row at its end.
    return rows.values_list("position", flat=True).first()


def _fields(rows: QuerySet[Message]) -> Any:
    # Read only the beginning of the data, because a page of large messages could be megabytes.
    start = Substr("data", 1, SHOWN_CHARACTERS + LONGEST_PART)
    names = ("pk", "position", "channel", "event", "size", "created_at", "published_by_id")
    return rows.annotate(start=start).values(*names, "start")


def _with_users(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    users = users_by_pk(row["published_by_id"] for row in found)
    for row in found:
        row["published_by"] = users.get(row["published_by_id"])
    return found


# --- The positions of a day -------------------------------------------------------------------------------------------


def _day_range(day: datetime.date) -> tuple[datetime.datetime, datetime.datetime]:
    """Return the start of the day and the start of the next day, in the current time zone."""
    starts = [datetime.datetime.combine(day + datetime.timedelta(days=n), datetime.time.min) for n in (0, 1)]
    start, end = map(timezone.make_aware, starts) if settings.USE_TZ else starts
    return start, end


def _positions_of_day(start: datetime.datetime, end: datetime.datetime) -> tuple[int, int] | None:
    """Return the first and the last position of the messages in [start, end); None if there are none.

    Times have no index, but they increase with the positions, except for small differences. So a binary search finds
    the day with a margin on both sides, and then its first and its last message are searched within these bounds.
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
    """Return the position at which messages of `moment` or later start; head + 1 if there are none."""
    rows = Message.objects.using(database()).order_by("position").values_list("position", "created_at")
    low, high = 0, head + 1
    while low < high:
        middle = (low + high) // 2
        # Pruned positions are missing, so look at the next existing message.
        following = rows.filter(position__gte=middle).first()
        if following is None or following[0] is None or following[1] >= moment:
            high = middle
        else:
            low = following[0] + 1
    return low
