"""Serializers: they check the bodies and queries of requests, and describe requests and responses in the schema.

Their docstrings are descriptions in the schema.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from streams.api.requests import fields
from streams.conf import settings
from streams.exceptions import HTTPError


class Body(serializers.Serializer):
    """A JSON object in a request. Unknown fields are refused, so that a misspelt one is noticed."""

    default_error_messages = {"invalid": "Send a JSON object.", "null": "Send a JSON object; got null."}

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping) and (unknown := [name for name in data if name not in self.fields]):
            problem = f"Unknown field. Valid fields: {', '.join(self.fields)}."
            shown = (name.encode(errors="backslashreplace").decode()[:100] for name in unknown[:10])
            raise serializers.ValidationError(dict.fromkeys(shown, problem))
        return super().to_internal_value(data)


# --- Publishing -------------------------------------------------------------------------------------------------------


class NewMessageBody(Body):
    """A message to publish to the channel of the URL."""

    data = fields.DataField()
    event = fields.EventTypeField()


class NewMessageItem(Body):
    """One of several messages to publish."""

    channel = fields.ChannelField()
    data = fields.DataField()
    event = fields.EventTypeField()
    idempotency_key = fields.IdempotencyKeyField(
        required=False, allow_null=True, default=None, help_text="The channel publishes one message with this key only."
    )


class NewMessagesBody(Body):
    """Messages to publish in one transaction: all of them, or none."""

    messages = NewMessageItem(many=True, allow_empty=False)

    def to_internal_value(self, data: Any) -> Any:
        limit = settings.MAX_MESSAGES_PER_REQUEST
        messages = data.get("messages") if isinstance(data, Mapping) else None
        if isinstance(messages, list) and len(messages) > limit:
            raise HTTPError(
                400,
                "too-many-messages",
                f"A request has at most {limit} messages (STREAMS['MAX_MESSAGES_PER_REQUEST']); got {len(messages)}. "
                "Send them in several.",
            )
        return super().to_internal_value(data)


class PublishedMessage(serializers.Serializer):
    """A message that was published."""

    id = serializers.IntegerField(help_text="The message's position, which is the event's id on streams.")
    channel = serializers.CharField()
    event = serializers.CharField()
    created_at = serializers.DateTimeField()
    idempotency_key = serializers.CharField(allow_null=True)
    new = serializers.BooleanField(
        help_text="False if the key was used before. Then this is the first message with it."
    )


class PublishedMessages(serializers.Serializer):
    """The published messages, in the order of the request."""

    messages = PublishedMessage(many=True)


# --- Reading ----------------------------------------------------------------------------------------------------------

# Unknown query parameters are ignored, because proxies and clients add their own.

NextPage = functools.partial(
    serializers.CharField, allow_null=True, help_text="The URL of the next page, or null if this is the last one."
)


class HistoryQuery(serializers.Serializer):
    """Selects a part of a channel's history."""

    after = fields.PositionField()
    before = fields.PositionField()
    limit = fields.LimitField()


class StoredMessage(serializers.Serializer):
    """A message of the log."""

    id = serializers.IntegerField(help_text="The message's position, which is the event's id on streams.")
    event = serializers.CharField()
    data = serializers.CharField(help_text="The text that streams send. Data other than a string was encoded as JSON.")
    created_at = serializers.DateTimeField()


class HistoryPage(serializers.Serializer):
    """A part of a channel's history, in order of position."""

    messages = StoredMessage(many=True)
    earliest = serializers.IntegerField(
        allow_null=True, help_text="The position of the channel's oldest retained message."
    )
    head = serializers.IntegerField(
        help_text="The newest position of the whole log. A stream with this Last-Event-ID sends all later messages."
    )
    gap = serializers.BooleanField(
        help_text="True if messages above `after` can be missing, because they were pruned or the log was replaced."
    )
    next = NextPage()


class ChannelsQuery(serializers.Serializer):
    """Selects channels."""

    after = fields.NamePartField()
    prefix = fields.NamePartField()
    limit = fields.LimitField()


class ChannelFacts(serializers.Serializer):
    """A channel."""

    channel = serializers.CharField()
    head = serializers.IntegerField(allow_null=True, help_text="The position of its newest message.")
    listeners = serializers.IntegerField(help_text="The number of its open streams in all processes.")


class ChannelPage(serializers.Serializer):
    """Some of the channels that the caller can read."""

    channels = ChannelFacts(many=True)
    next = NextPage()


class OneChannel(ChannelFacts):
    """A channel. One that was never used has no messages and no listeners."""

    earliest = serializers.IntegerField(allow_null=True, help_text="The position of its oldest retained message.")


# --- Access -----------------------------------------------------------------------------------------------------------


class NewTokenBody(Body):
    """The rights, the lifetime and the user of a new token."""

    read = fields.PatternsField(required=False, default=list, help_text="Channels to read, or patterns with `*`.")
    publish = fields.PatternsField(
        required=False, default=list, help_text="Channels to publish to, or patterns with `*`."
    )
    seconds = fields.SecondsField(required=False, help_text="Its lifetime. The default is the setting TOKEN_SECONDS.")
    user = fields.UserKeyField(
        required=False,
        allow_null=True,
        help_text="A user's primary key, or null for a token without a user. The default is yourself.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs["read"] and not attrs["publish"]:
            raise serializers.ValidationError("Name at least one channel to read or to publish to.")
        return attrs


class IssuedToken(serializers.Serializer):
    """A signed token and its content."""

    token = serializers.CharField()
    id = serializers.CharField()
    expires_at = serializers.DateTimeField()
    read = serializers.ListField(child=serializers.CharField())
    publish = serializers.ListField(child=serializers.CharField())
    user = serializers.CharField(allow_null=True)


class DisconnectBody(Body):
    """Selects the streams to end. If several fields are given, streams must match all of them."""

    user = fields.UserKeyField(required=False, help_text="The primary key of the user who opened them.")
    channel = fields.ChannelField(required=False, help_text="One of their channels.")
    token = fields.TokenTextField(required=False, help_text="The signed token with which they were opened, or its id.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs:
            raise serializers.ValidationError("Give at least one of user, channel and token.")
        return attrs


class Disconnected(serializers.Serializer):
    """The selection that was sent to all processes."""

    user = serializers.CharField(allow_null=True)
    channel = serializers.CharField(allow_null=True)
    token = serializers.CharField(allow_null=True, help_text="The token's id. It is revoked.")


# --- The rest ---------------------------------------------------------------------------------------------------------


class ErrorDetail(serializers.Serializer):
    """An error."""

    code = serializers.CharField(help_text="For programs.")
    message = serializers.CharField(help_text="For people: the rule, the value and the remedy.")
    fields = serializers.DictField(
        child=serializers.CharField(), required=False, help_text="The problem with each invalid part of the request."
    )


class Error(serializers.Serializer):
    """The response to every request that fails."""

    error = ErrorDetail()


class Live(serializers.Serializer):
    """The process is alive."""

    status = serializers.ChoiceField(["ok"])


class Ready(serializers.Serializer):
    """The state of the process."""

    status = serializers.ChoiceField(["ok", "unavailable"])
    database = serializers.ChoiceField(["ok", "unavailable", "not-migrated"])
    notifier = serializers.ChoiceField(["ok", "idle", "degraded"])
    problem = serializers.CharField(
        required=False, help_text="The missing migration, or the class of the listener's exception."
    )


@functools.cache
def _made(kind: Any) -> Any:
    return kind()


def checked(kind: Any, data: Any) -> Any:
    """Return `data`, checked by a serializer class. Raises ValidationError, or HTTPError if it is too large.

    All requests share one serializer, because it has no state and creating one takes longer than using it.
    """
    return _made(kind).run_validation(data)
