"""Findings about the receiving side: does the page's script see this event type, and is any client connected?"""

from __future__ import annotations

from collections.abc import Iterator

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from streams import presence
from streams.admin.diagnosis.findings import SHOWN_CHARACTERS, Finding, bad, good, note
from streams.presence import counter, node_row, totals
from streams.templatetags.streams_admin import shorten

# EventSource fires events with these names itself.
EVENT_SOURCE_EVENTS = ("error", "open")


def check_event_type(event: str) -> Finding:
    if event == "message":
        return good(_("Its event type is “message”, which EventSource passes to onmessage."))
    if event in EVENT_SOURCE_EVENTS:
        return bad(
            _(
                "Its event type “%(type)s” is also an event of EventSource itself. Scripts cannot easily distinguish "
                "them."
            )
            % {"type": event},
            _("Publish it with another event type, and let the page listen for that type."),
        )
    return note(
        _(
            "Its event type is “%(type)s”. EventSource passes it only to addEventListener(“%(type)s”, …), not to "
            "onmessage."
        )
        % {"type": shorten(event, SHOWN_CHARACTERS)},
        _("Check that the page’s script listens for this event type, with exactly this spelling."),
    )


def check_connections(channel: str) -> Iterator[Finding]:
    """Check whether any client is connected to the channel, and whether all processes are notified of new messages."""
    n = presence.audience(channel)
    nodes = presence.nodes()
    if n:
        yield good(
            ngettext("%(channel)s has %(n)d connection now.", "%(channel)s has %(n)d connections now.", n)
            % {"n": n, "channel": channel},
            _("Their connection might not be among these."),
        )
    elif not totals.is_audience_complete():
        yield note(
            _(
                "It is not known whether %(channel)s has connections now: some processes have so many channels that "
                "they report only the %(limit)d busiest ones."
            )
            % {"channel": channel, "limit": node_row.MAX_CHANNELS},
            _("Check in the browser’s developer tools, under “Network”, whether their page has an open stream."),
        )
    elif counter.connections() or any(node.connections for node in nodes):
        yield bad(
            _("%(channel)s has no connections now, but other channels do.") % {"channel": channel},
            _("Check that the page’s stream has this channel, with exactly this spelling. Case matters."),
        )
    else:
        yield bad(
            _("No client is connected now, to this channel or to any other."),
            _(
                "Open the page. If there is still no connection, check that the site runs under ASGI, that its urls.py "
                "includes streams.urls, and what the browser’s console shows. With PRESENCE_SECONDS = None, processes "
                "do not report their connections to each other."
            ),
        )
    for node in nodes:
        if node.notifier_problem:
            yield note(
                _("Process %(node)s is not notified of new messages: %(problem)s")
                % {"node": node, "problem": node.notifier_problem},
                _("It checks the log every POLL_SECONDS instead. Its clients receive messages late, but all of them."),
            )
