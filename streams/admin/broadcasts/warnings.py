"""What staff should know before they send a broadcast: who is connected, who cannot read it, and names with a mistake.

These are warnings. None of them keeps anybody from sending.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.utils.translation import gettext as _

from streams import diagnosis, presence, survey
from streams.admin.broadcast_forms import refused_channels
from streams.channels import is_public
from streams.conf import settings
from streams.events import validate_channel
from streams.exceptions import InvalidChannel
from streams.models import Broadcast, Channel, ChannelSettings, Node
from streams.policies import get_policy
from streams.threads import database

logger = logging.getLogger("streams")

RECENT_BROADCASTS = 100

# A similar name is looked for among so many names, and for so many of the channels: the compose page asks every few
# seconds.
MOST_NAMES = 500
MOST_LOOKED_AT = 5000
MOST_MISTAKES = 5
SIMILARITY = 0.75


@dataclass(frozen=True, slots=True)
class ChannelWarning:
    """A sentence about a channel. `nearest`: the known name that may be meant, or ""."""

    channel: str
    text: str
    nearest: str = ""


def warnings_of(request: HttpRequest, channels: Iterable[str]) -> list[ChannelWarning]:
    """Return the warnings about `channels`, in their order. Blocks: it queries, and asks the policy."""
    names = [name for name in channels if _is_name(name)]
    closed = _about_readers(request, names)
    unused = _about_unused(request, names)
    return [found[name] for name in names for found in (closed, unused) if name in found]


def _is_name(text: str) -> bool:
    try:
        validate_channel(text)
    except InvalidChannel:
        return False
    return True


# --- Who can read -----------------------------------------------------------------------------------------------------


def _about_readers(request: HttpRequest, names: Sequence[str]) -> dict[str, ChannelWarning]:
    try:
        refused = diagnosis.refused_to(request, AnonymousUser(), names)
        readers = {name: get_policy().readers(name) for name in refused}
    except Exception:
        # The page must stay usable, and sending does not depend on who can read.
        logger.warning("The policy failed when it was asked for warnings about a broadcast.", exc_info=True)
        text = _("It is not known who can read “%(channel)s”: the site's policy failed. The site's log has the reason.")
        return {name: ChannelWarning(name, text % {"channel": name}) for name in names}
    text = _("Visitors who are not signed in cannot read “%(channel)s”. It can be read by: %(readers)s.")
    return {name: ChannelWarning(name, text % {"channel": name, "readers": who}) for name, who in readers.items()}


# --- Names that may be mistakes ---------------------------------------------------------------------------------------


def _about_unused(request: HttpRequest, names: Sequence[str]) -> dict[str, ChannelWarning]:
    heard = _heard_lately()
    if not (unused := _unused(names, heard)):
        return {}
    known = _known_names(unused, heard)
    warnings = {}
    for n, name in enumerate(unused):
        text = _(
            "“%(channel)s” seems to be new: no message, no connection and no settings are known for it. Is the name "
            "spelled correctly?"
        ) % {"channel": name}
        nearest = _nearest(request, name, known) if n < MOST_MISTAKES else ""
        if nearest:
            text = f"{text} " + _("The most similar name that is known is “%(name)s”.") % {"name": nearest}
        warnings[name] = ChannelWarning(name, text, nearest)
    return warnings


def _unused(names: Sequence[str], heard: Collection[str]) -> list[str]:
    """Return those of `names` of which the site has no trace."""
    unused = [name for name in names if name not in heard and not is_public(name)]
    if not unused:
        return []
    using = database()
    settled = ChannelSettings.objects.using(using).filter(channel__in=unused).values_list("channel", flat=True)
    pruned = Channel.objects.using(using).filter(name__in=unused).values_list("name", flat=True)
    sent = Broadcast.objects.using(using).filter(state=Broadcast.State.SENT).order_by("-id")
    used = {*settled, *pruned}.union(*sent.values_list("channels", flat=True)[:RECENT_BROADCASTS])
    used |= {name for name, found in survey.summaries(unused, count_to=1).items() if found.count}
    return [name for name in unused if name not in used]


def _heard_lately() -> set[str]:
    """Return the channels that processes have listed, also those that have ended within presence.FORGET_SECONDS."""
    listed = Node.objects.using(database()).values_list("channels", flat=True)
    return {*presence.count().channels}.union(*listed)


def _known_names(unused: Sequence[str], heard: Collection[str]) -> set[str]:
    known = {name for name in settings.PUBLIC_CHANNELS if _is_name(name)}  # the others are patterns
    known |= {*survey.known_names(heard, limit=MOST_NAMES, most=MOST_NAMES)}
    # A site can have more channels than that. Most mistakes leave the first letter as it is.
    for first in {name[0] for name in unused[:MOST_MISTAKES]}:
        known |= {*survey.known_names(heard, prefix=first, limit=MOST_NAMES, most=MOST_LOOKED_AT)}
    return known


def _nearest(request: HttpRequest, name: str, known: Collection[str]) -> str:
    similar = difflib.get_close_matches(name, known, cutoff=SIMILARITY)
    return next((found for found in similar if not refused_channels(request, [found])), "")


# --- Who is connected -------------------------------------------------------------------------------------------------


def audience_in_words(audience: Mapping[str, int], *, is_whole: bool) -> list[str]:
    """Return sentences on how many connections each channel has now."""
    listening, unknown = _("{channel}: {n} listening now"), _("{channel}: not known how many listen")
    words = [(listening if n or is_whole else unknown).format(channel=channel, n=n) for channel, n in audience.items()]
    if not is_whole:
        words.append(more_may_listen())
    if len(audience) > 1:
        words.append(_("In all: {n}").format(n=sum(audience.values())))
        words.append(_("A connection that has several of these channels counts for each."))
    if audience and is_whole and not any(audience.values()):
        words.append(_("Nobody is connected right now, so nobody gets it at once."))
    return words


def more_may_listen() -> str:
    """Return the sentence for counts of connections that are not whole."""
    return _(
        "There are processes with so many channels that they name only those with most connections. So there may be "
        "more connections than are counted here."
    )
