"""Warnings about the channels of a broadcast: who cannot read them, and which names might be misspelled.

They are only warnings. None of them prevents sending.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from streams.admin.broadcasts.forms import refused_channels
from streams.admin.diagnosis.users import channels_refused_to
from streams.admin.pages import is_valid_channel
from streams.channels.rules import is_public
from streams.conf import settings
from streams.log import catalog
from streams.models import Broadcast, Channel, ChannelSettings, Node
from streams.policies import get_policy
from streams.presence import counter
from streams.runtime.executor import database

logger = logging.getLogger("streams")

RECENT_BROADCASTS = 100

# Limits of the search for similar names, because the page repeats it every few seconds.
MAX_NAMES = 500
MAX_SUGGESTIONS = 5
SIMILARITY = 0.75


@dataclass(frozen=True, slots=True)
class ChannelWarning:
    """A warning about a channel. `suggestion` is a known channel with a similar name, or ""."""

    channel: str
    text: str
    suggestion: str = ""


def find_warnings(request: HttpRequest, channels: Iterable[str]) -> list[ChannelWarning]:
    """Return the warnings about `channels`, in their order. This blocks: it runs queries and the site's policy."""
    names = [name for name in channels if is_valid_channel(name)]
    restricted = _restricted_channels(request, names)
    unknown = _unknown_channels(request, names)
    return [found[name] for name in names for found in (restricted, unknown) if name in found]


# --- Channels that visitors cannot read -------------------------------------------------------------------------------


def _restricted_channels(request: HttpRequest, names: Sequence[str]) -> dict[str, ChannelWarning]:
    try:
        refused = channels_refused_to(request, AnonymousUser(), names)
        readers = {name: get_policy().describe_readers(name) for name in refused}
    except Exception:
        # The page must stay usable, and sending does not depend on the readers.
        logger.warning("The policy failed while checking the channels of a broadcast.", exc_info=True)
        text = _(
            "Cannot check who can read “%(channel)s”: the site’s policy failed. See the site’s log for the reason."
        )
        return {name: ChannelWarning(name, text % {"channel": name}) for name in names}
    text = _("Visitors who are not logged in cannot read “%(channel)s”. Readers: %(readers)s.")
    return {name: ChannelWarning(name, text % {"channel": name, "readers": who}) for name, who in readers.items()}


# --- Names that might be misspelled -----------------------------------------------------------------------------------


def _unknown_channels(request: HttpRequest, names: Sequence[str]) -> dict[str, ChannelWarning]:
    connected = _recently_connected()
    if not (unknown := _without_trace(names, connected)):
        return {}
    known = _known_names(unknown, connected)
    warnings = {}
    for n, name in enumerate(unknown):
        text = _(
            "“%(channel)s” seems to be new: it has no messages, no connections and no settings. Check the spelling."
        ) % {"channel": name}
        suggestion = _most_similar(request, name, known) if n < MAX_SUGGESTIONS else ""
        if suggestion:
            text = f"{text} " + _("The most similar known channel is “%(name)s”.") % {"name": suggestion}
        warnings[name] = ChannelWarning(name, text, suggestion)
    return warnings


def _without_trace(names: Sequence[str], connected: Collection[str]) -> list[str]:
    """Return those of `names` that were never used on this site, as far as it knows."""
    unknown = [name for name in names if name not in connected and not is_public(name)]
    if not unknown:
        return []
    using = database()
    with_settings = ChannelSettings.objects.using(using).filter(channel__in=unknown).values_list("channel", flat=True)
    pruned = Channel.objects.using(using).filter(name__in=unknown).values_list("name", flat=True)
    sent = Broadcast.objects.using(using).filter(state=Broadcast.State.SENT).order_by("-id")
    used = {*with_settings, *pruned}.union(*sent.values_list("channels", flat=True)[:RECENT_BROADCASTS])
    used |= {name for name, found in catalog.summaries(unknown, count_to=1).items() if found.count}
    return [name for name in unknown if name not in used]


def _recently_connected() -> set[str]:
    """Return the channels with connections, including those of processes that stopped recently."""
    listed = Node.objects.using(database()).values_list("channels", flat=True)
    return {*counter.count().channels}.union(*listed)


def _known_names(unknown: Sequence[str], connected: Collection[str]) -> set[str]:
    known = {name for name in settings.PUBLIC_CHANNELS if is_valid_channel(name)}  # skip the patterns
    known |= {*catalog.known_names(connected, limit=MAX_NAMES)}
    # The site can have more channels than that. Most misspelled names still have the right first letter.
    for first in {name[0] for name in unknown[:MAX_SUGGESTIONS]}:
        known |= {*catalog.known_names(connected, prefix=first, limit=MAX_NAMES)}
    return known


def _most_similar(request: HttpRequest, name: str, known: Collection[str]) -> str:
    """Return the most similar known channel to which the user can broadcast, or ""."""
    similar = difflib.get_close_matches(name, known, cutoff=SIMILARITY)
    return next((found for found in similar if not refused_channels(request, [found])), "")


# --- The audience -----------------------------------------------------------------------------------------------------


# The sentence to show if some connections might be missing from the counts.
INCOMPLETE_COUNT = gettext_lazy(
    "Some processes have so many channels that they report only the busiest ones. There might be more connections "
    "than shown here."
)


def audience_sentences(audience: Mapping[str, int], *, is_complete: bool) -> list[str]:
    """Describe the number of connections of each channel. `is_complete`: the counts include all connections."""
    counted, unknown = _("{channel}: {n} connected now"), _("{channel}: number of connections unknown")
    sentences = [(counted if n or is_complete else unknown).format(channel=name, n=n) for name, n in audience.items()]
    if not is_complete:
        sentences.append(str(INCOMPLETE_COUNT))
    if len(audience) > 1:
        sentences.append(_("Total: {n}").format(n=sum(audience.values())))
        sentences.append(_("A connection to several of these channels is counted once for each."))
    if audience and is_complete and not any(audience.values()):
        sentences.append(_("No client is connected right now, so the message will not be received immediately."))
    return sentences
