"""Channels over HTTP: those that the caller may read, and what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from rest_framework.request import Request
from rest_framework.response import Response

from streams import log, presence, survey
from streams.api import descriptions
from streams.api.base import StreamsAPIView, checked_channel
from streams.api.messages import check_readable
from streams.api.schema import described
from streams.api.serializers import ChannelsQuery, checked
from streams.policies import get_policy

# Names that are looked at for one page, and at a time. Whoever may read few of many channels gets short pages.
MOST_NAMES = 5000
NAMES_AT_A_TIME = 500


class Channels(StreamsAPIView):
    """The channels that are known."""

    @described(**descriptions.CHANNELS)
    def get(self, request: Request) -> Response:
        told = checked(ChannelsQuery, request.query_params.dict())
        limit: int = told["limit"]
        shown, last = _readable(request, told["after"], told["prefix"], limit)
        step = last and {"after": last, **({"prefix": told["prefix"]} if told["prefix"] else {}), "limit": limit}
        return Response({"channels": _facts(shown), "next": f"{request.path}?{urlencode(step)}" if step else None})


class OneChannel(StreamsAPIView):
    """A channel, whether or not it was ever used."""

    @described(**descriptions.CHANNEL_FACTS)
    def get(self, request: Request, channel: str) -> Response:
        check_readable(request, checked_channel(channel))
        [facts] = _facts([channel])
        return Response({**facts, "earliest": log.earliest([channel])})


def _readable(request: Request, after: str, prefix: str, limit: int) -> tuple[list[str], str]:
    """The first `limit` names that may be read, and after which name to go on; "" at the end."""
    policy, listened = get_policy(), presence.channels()
    found: list[str] = []
    for _ in range(MOST_NAMES // NAMES_AT_A_TIME):
        names = survey.known_names(listened, after=after, prefix=prefix, limit=NAMES_AT_A_TIME)
        refused = set(policy.ask_to_read(request._request, names))
        for name in names:
            if name in refused:
                continue
            if len(found) == limit:
                return found, found[-1]
            found.append(name)
        if len(names) < NAMES_AT_A_TIME:
            return found, ""
        after = names[-1]
    return found, after


def _facts(names: Sequence[str]) -> list[dict[str, object]]:
    """By two queries, however many there are."""
    newest = survey.summaries(names, count_to=1)
    listeners = presence.audiences(names)
    return [{"channel": name, "head": newest[name].newest, "listeners": listeners[name]} for name in names]
