"""Processes in the admin: a table of the processes that serve streams, and charts of the last minutes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from streams import presence
from streams.admin.pages import FETCH_ERRORS, ReadOnlyAdmin, format_local
from streams.conf import settings
from streams.models import Node
from streams.presence import counter, node_row

TOP_CHANNELS = 10
CHART_SAMPLES = counter.MAX_SAMPLES

# A process that has not reported for more intervals than this is marked as late.
LATE_INTERVALS = 2


class NodeAdmin(ReadOnlyAdmin):
    """The page of the processes. Processes add and remove their rows themselves."""

    def get_urls(self) -> list[URLPattern]:
        refusal = gettext_lazy("You do not have permission to view processes.")
        return [
            self.staff_path("", self.changelist_view, "changelist"),
            self.staff_path("data/", self.data_view, "data", refusal=refusal),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        context = {
            "data": _described(presence.nodes()),
            "data_url": self.url("data"),
            "refresh_seconds": max(2.0, report_seconds()),
            "is_off": settings.PRESENCE_SECONDS is None,
            "texts": {
                "updated": _("Updated at {time}."),
                "not-updated": _("Not updated. {problem}"),
                **FETCH_ERRORS,
            },
        }
        return self.render_page(request, "nodes/list.html", _("Processes"), context)

    def data_view(self, request: HttpRequest) -> HttpResponse:
        """Return the current contents of the page as JSON, for its script."""
        return JsonResponse(_described(presence.nodes()))


def report_seconds() -> float:
    """Return how often each process reports, in seconds."""
    return settings.PRESENCE_SECONDS or node_row.DEFAULT_SECONDS


@dataclass(frozen=True, slots=True)
class Series:
    """Values for the charts: one per reporting interval, oldest first."""

    connections: list[int]
    rates: list[float]


# No log reaches this many messages per second. A larger increase is the jump at the start of a new epoch.
MAX_RATE = 1_000_000


def series(nodes: Iterable[Node], now: float, seconds: float, count: int = CHART_SAMPLES) -> Series:
    """Combine the samples of all processes: the sum of their connections, and messages per second from the log's head.

    Args:
        nodes: processes, each with its `samples`: lists of [Unix time, connections, head or None].
        now: the Unix time at which the series ends.
        seconds: the length of an interval.
        count: the number of intervals.

    In each interval, a process counts with its newest sample, unless that sample has expired like a row would.
    """
    samples = [sorted(node.samples) for node in nodes]
    connections: list[int] = []
    heads: list[int | None] = []
    for index in range(count + 1):
        end = now - (count - index) * seconds
        begin = end - node_row.PERIODS_UNTIL_EXPIRED * seconds
        newest = [next((s for s in reversed(own) if begin < s[0] <= end), None) for own in samples]
        connections.append(sum(sample[1] for sample in newest if sample))
        # A process that has not served a stream yet does not know the head and reports None.
        heads.append(max((sample[2] for sample in newest if sample and sample[2] is not None), default=None))
    return Series(connections[1:], [_rate(before, after, seconds) for before, after in itertools.pairwise(heads)])


def _rate(before: int | None, after: int | None, seconds: float) -> float:
    """Return messages per second; 0 if a head is unknown, or if it jumps to the start of a new epoch."""
    rate = 0.0 if before is None or after is None else max(0, after - before) / seconds
    return rate if rate < MAX_RATE else 0.0


def _described(nodes: list[Node]) -> dict[str, Any]:
    """Return the contents of the page: texts and numbers for the table and the charts."""
    last = series(nodes, time.time(), report_seconds())
    minutes = _number(CHART_SAMPLES * report_seconds() / 60)
    total = sum(node.connections for node in nodes)
    return {
        "nodes": [_described_node(node) for node in nodes],
        "summary": _("%(connections)s in %(processes)s.")
        % {
            "connections": ngettext("%(n)s connection", "%(n)s connections", total) % {"n": total},
            "processes": ngettext("%(n)s process", "%(n)s processes", len(nodes)) % {"n": len(nodes)},
        },
        "connections": last.connections,
        "connections_text": _("Connections in the last %(minutes)s min: %(now)s now, maximum %(maximum)s.")
        % {"minutes": minutes, "now": total, "maximum": max([total, *last.connections])},
        "rates": last.rates,
        "rates_text": _("Messages per second in the last %(minutes)s min: %(now)s now, maximum %(maximum)s.")
        % {"minutes": minutes, "now": _number(last.rates[-1]), "maximum": _number(max(last.rates))},
        "size": CHART_SAMPLES,
    }


def _number(value: float) -> str:
    """Format with one decimal digit, or none if that digit is 0."""
    short = round(value, 1)
    return number_format(int(short) if short == int(short) else short, use_l10n=True)


def _described_node(node: Node) -> dict[str, Any]:
    ago = max(0, int(node.silent_for.total_seconds()))
    ranked = sorted(node.channels.items(), key=lambda item: (-item[1], item[0]))
    more = len(ranked) + node.channels_left_out - TOP_CHANNELS
    if node.notifier_problem:
        state, word = "bad", _("problem: %(problem)s") % {"problem": node.notifier_problem}
    elif ago > LATE_INTERVALS * report_seconds() + 1:
        state, word = "warning", _("no recent report; it might have stopped")
    else:
        state, word = "good", _("listening")
    return {
        "id": node.id,
        "process": f"{node.host}:{node.pid}",
        "own": node.id == counter.process.node_id,
        "started": format_local(node.started_at, seconds=False),
        "seen": ngettext("%(n)s second ago", "%(n)s seconds ago", ago) % {"n": ago},
        "connections": node.connections,
        "channel_count": len(ranked) + node.channels_left_out,
        "channels": ranked[:TOP_CHANNELS],
        "more": ngettext("and %(n)s more", "and %(n)s more", more) % {"n": more} if more > 0 else "",
        "notifier": node.notifier.rpartition(".")[2],
        "state": state,
        "state_word": word,
    }
