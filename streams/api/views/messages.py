"""Views for messages: publish one or several, and read a channel's history."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from rest_framework.request import Request
from rest_framework.response import Response

from streams import log
from streams.api import publishing
from streams.api.openapi import descriptions
from streams.api.openapi.schema import described
from streams.api.requests.fields import MAX_POSITION
from streams.api.requests.serializers import HistoryQuery, checked
from streams.api.views.base import StreamsAPIView, check_readable
from streams.http.mounts import path_of
from streams.log import history
from streams.policies import get_policy
from streams.protocol.events import NewMessage, validate_channel
from streams.publishing import rate_limit
from streams.publishing.publish import publish_many


class ChannelMessages(StreamsAPIView):
    """The messages of one channel."""

    @described(**descriptions.HISTORY)
    def get(self, request: Request, channel: str) -> Response:
        check_readable(request, channel)
        query = checked(HistoryQuery, request.query_params.dict())
        after, before, limit = query["after"], query["before"], query["limit"]
        newest = after is None and before is not None
        # The head is read before the messages. A stream with this Last-Event-ID sends the messages after it.
        epochs, head = log.opening()
        end = min(head + 1, MAX_POSITION if before is None else before)
        found = history.read(channel, after=after or 0, before=end, limit=limit, newest=newest)
        step = None
        if found.more:
            step = {"before": found.first} if newest else {"after": found.last}
            if before is not None and not newest:
                step["before"] = before
        return Response(
            {
                "messages": [
                    {"id": entry.position, "event": entry.event, "data": entry.data, "created_at": entry.created_at}
                    for entry in found.entries
                ],
                "earliest": log.earliest([channel]),
                "head": head,
                "gap": after is not None and (after > head or epochs.is_lost(after) or found.pruned is not None),
                "next": step and f"{path_of(request)}?{urlencode({**step, 'limit': limit})}",
            }
        )

    @described(**descriptions.PUBLISH)
    def post(self, request: Request, channel: str) -> Response:
        check_publishable(request, [validate_channel(channel)])
        message = publishing.one_message(channel, request.data, request._request, request.user)
        status, [published] = _publish(request, [message])
        return Response(published, status)


class Messages(StreamsAPIView):
    """Messages for several channels."""

    @described(**descriptions.PUBLISH_MANY)
    def post(self, request: Request) -> Response:
        messages = publishing.many_messages(request.data, request._request, request.user)
        check_publishable(request, list(dict.fromkeys(message.channel for message in messages)))
        status, published = _publish(request, messages)
        return Response({"messages": published}, status)


def check_publishable(request: Request, channels: Sequence[str]) -> None:
    """Raise HTTPError, 403, if the policy does not let the request publish to all of `channels`."""
    policy = get_policy()
    if refused := policy.denied_publish_channels(request._request, channels):
        raise publishing.refusal(policy, refused)


def _publish(request: Request, messages: Sequence[NewMessage]) -> tuple[int, list[dict[str, object]]]:
    publishing.check_count(len(messages))
    caller = publishing.caller_of(request._request, request.user, request.auth)
    publishing.check_wait(rate_limit.take(caller, len(messages)))
    return publishing.answer(publish_many(messages))
