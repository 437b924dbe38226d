"""Views for channels: list those that the caller can read, and look at one."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from rest_framework.request import Request
from rest_framework.response import Response

from streams import log, presence
from streams.api.openapi import descriptions
from streams.api.openapi.schema import described
from streams.api.requests.serializers import ChannelsQuery, checked
from streams.api.views.base import StreamsAPIView, check_readable, has_credentials
from streams.channels.rules import Access, access_rules
from streams.conf import settings
from streams.http.mounts import path_of
from streams.log import catalog
from streams.policies import get_policy
from streams.presence import totals
from streams.tokens import Token, is_pattern

# The number of names that are looked at for one page, and at a time. A caller who can read few of many channels gets
# short pages.
MOST_NAMES = 5000
NAMES_AT_A_TIME = 500

# The characters that make a pattern of PUBLIC_CHANNELS match more than its own text.
WILDCARDS = frozenset("*?[")


class Channels(StreamsAPIView):
    """The channels that the caller can read."""

    @described(**descriptions.CHANNELS)
    def get(self, request: Request) -> Response:
        query = checked(ChannelsQuery, request.query_params.dict())
        limit: int = query["limit"]
        shown, last = _readable(request, query["after"], query["prefix"], limit)
        step = last and {"after": last, **({"prefix": query["prefix"]} if query["prefix"] else {}), "limit": limit}
        return Response({"channels": _facts(shown), "next": f"{path_of(request)}?{urlencode(step)}" if step else None})


class OneChannel(StreamsAPIView):
    """One channel. It does not have to exist."""

    @described(**descriptions.CHANNEL_FACTS)
    def get(self, request: Request, channel: str) -> Response:
        check_readable(request, channel)
        [facts] = _facts([channel])
        return Response({**facts, "earliest": log.earliest([channel])})


def _readable(request: Request, after: str, prefix: str, limit: int) -> tuple[list[str], str]:
    """Return the first `limit` names that the caller can read, and the name after which to go on; "" at the end.

    A caller without credentials, or with a token that has no pattern, gets the channels that the site or the token
    names. Only other callers look through the names of the log: the name of a channel that merely matches a pattern of
    PUBLIC_CHANNELS, such as `job.*`, can be a secret.
    """
    policy = get_policy()
    token = request.auth if isinstance(request.auth, Token) else None
    named = _named_public_channels() | {name for name in (token.read if token else ()) if not is_pattern(name)}
    looks_through_all = any(map(is_pattern, token.read)) if token else has_credentials(request)
    candidates = totals.audience_by_channel() if looks_through_all else named
    # Sorted once, and not at each step: there can be many subscribers.
    listed = sorted(name for name in candidates if name > after and name.startswith(prefix))[:MOST_NAMES]
    found: list[str] = []
    for _ in range(MOST_NAMES // NAMES_AT_A_TIME):
        if looks_through_all:
            names = catalog.known_names(listed, after=after, prefix=prefix, limit=NAMES_AT_A_TIME)
        else:
            names = [name for name in listed if name > after][:NAMES_AT_A_TIME]
        own = [name for name in names if not token or name in named or token.may_read(name)]
        refused = set(policy.denied_channels(request._request, own)) if own else set()
        found += [name for name in own if name not in refused]
        if len(found) > limit:
            return found[:limit], found[limit - 1]
        if len(names) < NAMES_AT_A_TIME:
            return found, ""
        after = names[-1]
    return found, after


def _named_public_channels() -> set[str]:
    """Return the channels that PUBLIC_CHANNELS names exactly, or that staff have opened to everyone."""
    by_setting = {name for name in settings.PUBLIC_CHANNELS if not WILDCARDS.intersection(name)}
    return by_setting | {name for name, rule in access_rules().items() if rule.access == Access.PUBLIC}


def _facts(names: Sequence[str]) -> list[dict[str, object]]:
    """Return the facts about each channel, with two queries in all."""
    newest = catalog.summaries(names, count_to=1)
    listeners = presence.audiences(names)
    return [{"channel": name, "head": newest[name].newest, "listeners": listeners[name]} for name in names]
