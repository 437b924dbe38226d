"""Messages over HTTP: publishing one or many, and a channel's history."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from rest_framework.request import Request
from rest_framework.response import Response

from streams import history, log, rates
from streams.api import descriptions, publishing
from streams.api.base import StreamsAPIView, checked_channel
from streams.api.fields import MAX_POSITION
from streams.api.schema import described
from streams.api.serializers import HistoryQuery, checked
from streams.events import NewMessage
from streams.exceptions import HTTPError, IdempotencyKeyInUse, InvalidMessage
from streams.models import Message
from streams.policies import get_policy
from streams.publishing import publish_many


class ChannelMessages(StreamsAPIView):
    """A channel's messages."""

    @described(**descriptions.HISTORY)
    def get(self, request: Request, channel: str) -> Response:
        check_readable(request, checked_channel(channel))
        told = checked(HistoryQuery, request.query_params.dict())
        after, before, limit = told["after"], told["before"], told["limit"]
        newest = after is None and before is not None
        # Before the messages: what is published meanwhile is above it, and comes by a stream from there.
        epochs, head = log.opening()
        end = min(head + 1, MAX_POSITION if before is None else before)
        found = history.read(channel, after=after or 0, before=end, limit=limit, newest=newest)
        entries = found.entries
        step = None
        if found.more:
            step = {"before": found.first} if newest else {"after": found.last}
            if before is not None and not newest:
                step["before"] = before
        return Response(
            {
                "messages": [
                    {"id": entry.position, "event": entry.event, "data": entry.data, "created_at": entry.created_at}
                    for entry in entries
                ],
                "earliest": log.earliest([channel]),
                "head": head,
                "gap": after is not None and (after > head or epochs.is_lost(after) or found.pruned is not None),
                "next": step and f"{request.path}?{urlencode({**step, 'limit': limit})}",
            }
        )

    @described(**descriptions.PUBLISH)
    def post(self, request: Request, channel: str) -> Response:
        check_publishable(request, [checked_channel(channel)])
        message = publishing.one_message(channel, request.data, request._request, request.user)
        status, [told] = _publish(request, [message])
        return Response(told, status)


class Messages(StreamsAPIView):
    """Messages to several channels at once."""

    @described(**descriptions.PUBLISH_MANY)
    def post(self, request: Request) -> Response:
        messages = publishing.many_messages(request.data, request._request, request.user)
        check_publishable(request, list(dict.fromkeys(message.channel for message in messages)))
        status, told = _publish(request, messages)
        return Response({"messages": told}, status)


def check_readable(request: Request, channel: str) -> None:
    """Raise HTTPError where the policy lets the request not read `channel`."""
    policy = get_policy()
    if refused := policy.ask_to_read(request._request, [channel]):
        raise HTTPError(403, "forbidden", policy.refusal(refused))


def check_publishable(request: Request, channels: Sequence[str]) -> None:
    """Raise HTTPError where the policy lets the request not publish to one of `channels`."""
    policy = get_policy()
    if refused := policy.ask_to_publish(request._request, channels):
        raise publishing.refusal(policy, refused)


def _publish(request: Request, messages: Sequence[NewMessage]) -> tuple[int, list[dict[str, object]]]:
    publishing.check_count(len(messages))
    caller = publishing.caller_of(request._request, request.user, request.auth)
    publishing.check_wait(rates.take(caller, len(messages)))
    try:
        rows: list[Message] = publish_many(messages)
    except (InvalidMessage, IdempotencyKeyInUse) as error:
        raise publishing.as_error(error) from None
    return publishing.answer(rows)
