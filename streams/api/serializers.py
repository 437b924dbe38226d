"""The bodies of requests and answers: what the views check, and what the schema shows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from streams.api import fields
from streams.conf import settings
from streams.exceptions import HTTPError


class Body(serializers.Serializer):
    """A request's object. What it has no name for is refused: a misspelt key would do nothing, and say nothing."""

    default_error_messages = {"invalid": "This is a JSON object.", "null": "This is a JSON object, and not null."}

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping) and (unknown := [name for name in data if name not in self.fields]):
            told = f"There is no such name; there are {', '.join(self.fields)}."
            raise serializers.ValidationError({_shown(name): told for name in unknown[:10]})
        return super().to_internal_value(data)


def _shown(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()[:100]


class Query(serializers.Serializer):
    """A request's parameters. What it has no name for is nobody's business: proxies and clients add their own."""


# --- Publishing -------------------------------------------------------------------------------------------------------


class NewMessageBody(Body):
    """A message to publish to the channel of the URL."""

    data = fields.DataField()
    event = fields.EventTypeField(required=False, default="message", help_text="What clients listen for.")


class NewMessageItem(Body):
    """A message to publish, among others."""

    channel = fields.ChannelField()
    data = fields.DataField()
    event = fields.EventTypeField(required=False, default="message", help_text="What clients listen for.")
    idempotency_key = fields.IdempotencyKeyField(
        required=False, allow_null=True, default=None, help_text="Publishes once under this key on this channel."
    )


class NewMessagesBody(Body):
    """Messages to publish together: all of them, or none."""

    messages = NewMessageItem(many=True, allow_empty=False)

    def to_internal_value(self, data: Any) -> Any:
        most = settings.MAX_MESSAGES_PER_REQUEST
        messages = data.get("messages") if isinstance(data, Mapping) else None
        if isinstance(messages, list) and len(messages) > most:
            raise HTTPError(
                400,
                "too-many-messages",
                f"A request has at most {most} messages (STREAMS['MAX_MESSAGES_PER_REQUEST']); got {len(messages)}. "
                "Send them in several.",
            )
        return super().to_internal_value(data)


class PublishedMessage(serializers.Serializer):
    """What became of a message."""

    id = serializers.IntegerField(help_text="Its position: the event's id on streams.")
    channel = serializers.CharField()
    event = serializers.CharField()
    created_at = serializers.DateTimeField()
    idempotency_key = serializers.CharField(allow_null=True)
    new = serializers.BooleanField(help_text="False where its key was used before: this is the message of that time.")


class PublishedMessages(serializers.Serializer):
    """What became of several, in the order in which they were sent."""

    messages = PublishedMessage(many=True)


# --- Reading ----------------------------------------------------------------------------------------------------------


class HistoryQuery(Query):
    """Which part of a channel's history."""

    after = fields.PositionField(required=False, default=None)
    before = fields.PositionField(required=False, default=None)
    limit = fields.LimitField(required=False, default=100)


class StoredMessage(serializers.Serializer):
    """A message of the log."""

    id = serializers.IntegerField(help_text="Its position: the event's id on streams.")
    event = serializers.CharField()
    data = serializers.CharField(help_text="The text that streams send: JSON where it was published as such.")
    created_at = serializers.DateTimeField()


class HistoryPage(serializers.Serializer):
    """A part of a channel's history, in the log's order."""

    messages = StoredMessage(many=True)
    earliest = serializers.IntegerField(
        allow_null=True, help_text="The oldest message of the channel that is retained."
    )
    head = serializers.IntegerField(
        help_text="The newest position of the whole log: what comes after it, a stream with this Last-Event-ID brings."
    )
    gap = serializers.BooleanField(
        help_text="Whether messages above `after` may be missing here: pruned since, or of another log."
    )
    next = serializers.CharField(allow_null=True, help_text="Where the next page is; null: there is none.")


class ChannelsQuery(Query):
    """Which channels."""

    after = fields.NamePartField(required=False, default="")
    prefix = fields.NamePartField(required=False, default="")
    limit = fields.LimitField(required=False, default=100)


class ChannelFacts(serializers.Serializer):
    """A channel, as far as it is known."""

    channel = serializers.CharField()
    head = serializers.IntegerField(allow_null=True, help_text="The position of its newest message.")
    listeners = serializers.IntegerField(help_text="Open streams that have it, over all processes.")


class ChannelPage(serializers.Serializer):
    """Some of the channels that the caller may read."""

    channels = ChannelFacts(many=True)
    next = serializers.CharField(allow_null=True, help_text="Where the next page is; null: there is none.")


class OneChannel(ChannelFacts):
    """A channel, as far as it is known. One that nobody has used yet is empty."""

    earliest = serializers.IntegerField(allow_null=True, help_text="Its oldest message that is retained.")


# --- Access -----------------------------------------------------------------------------------------------------------


class NewTokenBody(Body):
    """What a token is to allow, in whose name, and for how long."""

    read = fields.PatternsField(required=False, default=list, help_text="Channels, or patterns with `*`, to read.")
    publish = fields.PatternsField(required=False, default=list, help_text="Such to publish to.")
    seconds = fields.SecondsField(required=False, help_text="Its lifetime; `TOKEN_SECONDS` where it is left out.")
    user = fields.UserKeyField(
        required=False, allow_null=True, help_text="In whose name: a primary key, or null for nobody's; else your own."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs["read"] and not attrs["publish"]:
            raise serializers.ValidationError("Name at least one channel to read or to publish to.")
        return attrs


class IssuedToken(serializers.Serializer):
    """A signed token, and what it says."""

    token = serializers.CharField()
    id = serializers.CharField()
    expires_at = serializers.DateTimeField()
    read = serializers.ListField(child=serializers.CharField())
    publish = serializers.ListField(child=serializers.CharField())
    user = serializers.CharField(allow_null=True)


class DisconnectBody(Body):
    """Whose streams are to end: those for which all holds that is named."""

    user = fields.UserKeyField(required=False, help_text="In whose name they were opened: a primary key.")
    channel = fields.ChannelField(required=False, help_text="That they have.")
    token = fields.TokenTextField(required=False, help_text="With which they were opened: a signed token, or its id.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs:
            raise serializers.ValidationError("Name a user, a channel or a token, or several of them.")
        return attrs


class Disconnected(serializers.Serializer):
    """What was told to all processes."""

    user = serializers.CharField(allow_null=True)
    channel = serializers.CharField(allow_null=True)
    token = serializers.CharField(allow_null=True, help_text="The token's id. It is revoked.")


# --- The rest ---------------------------------------------------------------------------------------------------------


class ErrorDetail(serializers.Serializer):
    """What is wrong."""

    code = serializers.CharField(help_text="For programs.")
    message = serializers.CharField(help_text="For people: the rule, the value, the remedy.")
    fields = serializers.DictField(
        child=serializers.CharField(), required=False, help_text="What is wrong with which part of the request."
    )


class Error(serializers.Serializer):
    """How every error is answered."""

    error = ErrorDetail()


class Live(serializers.Serializer):
    """The process is there."""

    status = serializers.ChoiceField(["ok"])


class Ready(serializers.Serializer):
    """Whether the process can serve."""

    status = serializers.ChoiceField(["ok", "unavailable"])
    database = serializers.ChoiceField(["ok", "unavailable", "not-migrated"])
    notifier = serializers.ChoiceField(["ok", "idle", "degraded"])
    problem = serializers.CharField(
        required=False, help_text="What is missing, or the class of the listener's exception."
    )


@functools.cache
def _made(kind: Any) -> Any:
    return kind()


def checked(kind: Any, given: Any) -> Any:
    """What `given` holds, checked by a Body or a Query. Raises ValidationError, or HTTPError where it is too much.

    By one serializer for all requests: it keeps nothing of what it checks, and making one costs more than its use.
    """
    return _made(kind).run_validation(given)
