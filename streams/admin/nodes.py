"""The processes that stream, in the admin: what each says of itself, and the last minutes of all together."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from streams import presence
from streams.admin.pages import LookOnlyAdmin, ask_texts, error_json
from streams.conf import settings
from streams.models import Node
from streams.times import in_words

TOP_CHANNELS = 10
CHART_BEATS = presence.MAX_SAMPLES

# Later than that, a process has missed a beat.
LATE_BEATS = 2


class NodeAdmin(LookOnlyAdmin):
    """Processes come and go by themselves: staff look, and change nothing."""

    def get_urls(self) -> list[URLPattern]:
        return [
            self.own_page("", self.changelist_view, "changelist"),
            self.own_page("data/", self.data_view, "data"),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {
            "data": _described(presence.nodes()),
            "data_url": self.url("data"),
            "refresh_seconds": max(2.0, beat_seconds()),
            "is_off": settings.PRESENCE_SECONDS is None,
            "texts": {
                "updated": _("Updated at {time}."),
                "not-updated": _("Not updated. {problem}"),
                **ask_texts(),
            },
        }
        return self.page(request, "node_list.html", _("Processes"), context)

    def data_view(self, request: HttpRequest) -> HttpResponse:
        """What the page shows, for its script."""
        if not self.has_view_permission(request):
            return error_json([_("This needs the permission to view processes.")], 403)
        return JsonResponse(_described(presence.nodes()), headers={"Cache-Control": "no-store"})


def beat_seconds() -> float:
    """How often a process is heard of."""
    return settings.PRESENCE_SECONDS or presence.DEFAULT_SECONDS


@dataclass(frozen=True, slots=True)
class Series:
    """The last minutes, a value for each beat, oldest first."""

    connections: list[int]
    rates: list[float]


# More messages a second than any log gives. The head leaps further where a new epoch starts.
MAX_RATE = 1_000_000


def series(nodes: Iterable[Node], now: float, seconds: float, count: int = CHART_BEATS) -> Series:
    """Put the samples of all processes together: the sum of their connections, and messages a second from the head.

    A process counts in a beat with its newest sample, if that is not older than a row may be without fading.
    """
    samples = [sorted(node.samples) for node in nodes]
    connections: list[int] = []
    heads: list[int | None] = []
    for beat in range(count + 1):
        end = now - (count - beat) * seconds
        begin = end - presence.BEATS_UNTIL_FADED * seconds
        newest = [next((s for s in reversed(own) if begin < s[0] <= end), None) for own in samples]
        connections.append(sum(sample[1] for sample in newest if sample))
        # A process that has never had a stream knows no head, and says None.
        heads.append(max((sample[2] for sample in newest if sample and sample[2] is not None), default=None))
    return Series(connections[1:], [_rate(before, after, seconds) for before, after in itertools.pairwise(heads)])


def _rate(before: int | None, after: int | None, seconds: float) -> float:
    """Return messages a second. There is no rate if a head is not known, or leaps to the start of a new epoch."""
    rate = 0.0 if before is None or after is None else max(0, after - before) / seconds
    return rate if rate < MAX_RATE else 0.0


def _described(nodes: list[Node]) -> dict[str, Any]:
    """The processes and the charts, as texts and numbers to be shown."""
    last = series(nodes, time.time(), beat_seconds())
    minutes = _number(CHART_BEATS * beat_seconds() / 60)
    total = sum(node.connections for node in nodes)
    return {
        "nodes": [_described_node(node) for node in nodes],
        "summary": _("%(connections)s in %(processes)s.")
        % {
            "connections": ngettext("%(n)s connection", "%(n)s connections", total) % {"n": total},
            "processes": ngettext("%(n)s process", "%(n)s processes", len(nodes)) % {"n": len(nodes)},
        },
        "connections": last.connections,
        "connections_text": _("Connections in the last %(minutes)s min: %(now)s now, %(most)s at most.")
        % {"minutes": minutes, "now": total, "most": max([total, *last.connections])},
        "rates": last.rates,
        "rates_text": _("Messages a second in the last %(minutes)s min: %(now)s just now, %(most)s at most.")
        % {
            "minutes": minutes,
            "now": _number(last.rates[-1]),
            "most": _number(max(last.rates)),
        },
        "room": CHART_BEATS,
    }


def _number(value: float) -> str:
    """With one digit behind the point, where that is not 0."""
    short = round(value, 1)
    return number_format(int(short) if short == int(short) else short, use_l10n=True)


def _described_node(node: Node) -> dict[str, Any]:
    ago = max(0, int(node.silent_for.total_seconds()))
    late = ago > LATE_BEATS * beat_seconds() + 1
    ranked = sorted(node.channels.items(), key=lambda item: (-item[1], item[0]))
    more = len(ranked) + node.channels_left_out - TOP_CHANNELS
    if node.notifier_problem:
        state, word = "bad", _("problem: %(problem)s") % {"problem": node.notifier_problem}
    elif late:
        state, word = "warning", _("not heard of for a while; it may have ended")
    else:
        state, word = "good", _("listening")
    return {
        "id": node.id,
        "process": f"{node.host}:{node.pid}",
        "own": node.id == presence.node_id(),
        "started": in_words(node.started_at, seconds=False),
        "seen": ngettext("%(n)s second ago", "%(n)s seconds ago", ago) % {"n": ago},
        "connections": node.connections,
        "channel_count": len(ranked) + node.channels_left_out,
        "channels": ranked[:TOP_CHANNELS],
        "more": ngettext("and %(n)s more", "and %(n)s more", more) % {"n": more} if more > 0 else "",
        "notifier": node.notifier.rpartition(".")[2],
        "state": state,
        "state_word": word,
    }
