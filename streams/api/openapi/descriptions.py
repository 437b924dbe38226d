"""The descriptions of all operations: the arguments of extend_schema()."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse

from streams import log
from streams.api.requests import serializers
from streams.api.requests.fields import CHANNEL, MAX_POSITION
from streams.protocol import events

# For each status: its description, and the code and message of an example.
ERRORS = {
    400: ("The request is invalid.", "invalid-request", "data: This field is required."),
    401: ("The credentials are missing or invalid.", "expired-token", "This token has expired. Ask for a new one."),
    403: ("The caller does not have the permission.", "forbidden", "You do not have permission to publish to news."),
    413: (
        "The request, or a message in it, is too large.",
        "message-too-large",
        "Data is at most 262144 bytes in UTF-8 (STREAMS['MAX_MESSAGE_BYTES']); got 300000. "
        "Publish a reference to the large thing, or raise the setting.",
    ),
    415: (
        "The Content-Type is not JSON.",
        "unsupported-media-type",
        "The body must be JSON in UTF-8: send `Content-Type: application/json`; got 'text/plain'.",
    ),
    409: (
        "The idempotency key is being used by a transaction that is still open.",
        "idempotency-key-in-use",
        "An idempotency key of these messages is being used by a transaction that is still open. Nothing was "
        "published: publish them again later.",
    ),
    422: (
        "The idempotency key was used for another message.",
        "idempotency-key-reused",
        "The idempotency key 'order-17-paid' was used on news for a message with other data or another type. "
        "Nothing was published: send what was sent first, or take a new key.",
    ),
    429: (
        "The caller exceeds the rate limit.",
        "publish-rate",
        "You can publish 6000 messages a minute (STREAMS['PUBLISH_MESSAGES_PER_MINUTE']). Try again in 7 s.",
    ),
    503: ("The database does not answer.", "unavailable", "The database does not answer. Try again later."),
}

ID = 4711
PUBLISHED = {
    "id": ID,
    "channel": "news",
    "event": "message",
    "created_at": "2026-11-27T09:30:00Z",
    "idempotency_key": "order-17-paid",
    "new": True,
}
REPEATED = PUBLISHED | {"new": False}
STORED = {"id": ID, "event": "message", "data": '{"title":"Hello"}', "created_at": "2026-11-27T09:30:00Z"}

RETRY_AFTER = OpenApiParameter(
    "Retry-After",
    int,
    OpenApiParameter.HEADER,
    response=[429, 503],
    description="The number of seconds to wait before trying again.",
)
CHANNEL_IN_PATH = OpenApiParameter("channel", CHANNEL, OpenApiParameter.PATH, description="The channel's name.")
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": events.IDEMPOTENCY_KEY_MAX_LENGTH, "example": "order-17-paid"},
    OpenApiParameter.HEADER,
    description="The channel publishes one message with this key only, as long as that message is retained.",
)
LIMIT = OpenApiParameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": log.PAGE_MESSAGES, "default": 100},
    description="The maximum number of items. A page of large messages has fewer.",
)
POSITION = {"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_POSITION}
NAME_OR_NOTHING = {"type": "string", "pattern": rf"^[A-Za-z0-9._-]{{0,{events.CHANNEL_MAX_LENGTH}}}$"}


# The errors of a request that publishes.
ERRORS_OF_PUBLISHING = (400, 401, 403, 409, 413, 415, 422, 429, 503)


def _operation(
    operation_id: str,
    tag: str,
    summary: str,
    description: str | None,
    answers: dict[int, tuple[Any, str, Any]],
    errors: Sequence[int] = (),
    *,
    parameters: Sequence[OpenApiParameter] = (),
    request: Any = None,
    sent: Any = None,
    unprocessable: tuple[str, str, str] = ERRORS[422],
) -> dict[str, Any]:
    """Return the arguments of extend_schema() for an operation.

    Args:
        answers: for each status of a success, the response's serializer, its description, and an example.
        errors: the other statuses. ERRORS describes them.
        request: the serializer of the body, and `sent` an example of it.
        unprocessable: the row for the status 422.
    """
    responses = {
        status: OpenApiResponse(kind, words, [OpenApiExample(words, value=value, status_codes=[str(status)])])
        for status, (kind, words, value) in answers.items()
    }
    for status in errors:
        words, code, message = unprocessable if status == 422 else ERRORS[status]
        example = OpenApiExample(code, value={"error": {"code": code, "message": message}}, status_codes=[str(status)])
        responses[status] = OpenApiResponse(serializers.Error, words, [example])
    found: dict[str, Any] = {
        "operation_id": operation_id,
        "tags": [tag],
        "summary": summary,
        "description": description,
        "parameters": [*parameters, RETRY_AFTER] if 503 in errors else list(parameters),
        "responses": responses,
    }
    if request is not None:
        found |= {"request": request, "examples": [OpenApiExample("Example", value=sent, request_only=True)]}
    return found


PUBLISH = _operation(
    "publish",
    "Publishing",
    "Publish a message",
    "A string is sent on streams as it is, anything else as JSON. The channel does not have to exist.",
    {
        201: (serializers.PublishedMessage, "The message was published.", PUBLISHED),
        200: (serializers.PublishedMessage, "The key was used before. This is the first message with it.", REPEATED),
    },
    ERRORS_OF_PUBLISHING,
    parameters=[CHANNEL_IN_PATH, IDEMPOTENCY_KEY],
    request=serializers.NewMessageBody,
    sent={"data": {"title": "Hello"}, "event": "message"},
)

PUBLISH_FAST = {
    **PUBLISH,
    "operation_id": "publishFast",
    "summary": "Publish a message, at a high rate",
    "description": "The same as `publish`, but for signed tokens only, and with less overhead per request.",
}

PUBLISH_MANY = _operation(
    "publishMany",
    "Publishing",
    "Publish several messages",
    "Publishes all messages or none, in the order given. They can have different channels. The status is 200 if none "
    "of them is new.",
    {
        201: (serializers.PublishedMessages, "The messages were published.", {"messages": [PUBLISHED]}),
        200: (
            serializers.PublishedMessages,
            "All keys were used before. These are the first messages with them.",
            {"messages": [REPEATED]},
        ),
    },
    ERRORS_OF_PUBLISHING,
    request=serializers.NewMessagesBody,
    sent={
        "messages": [
            {"channel": "news", "data": "Doors close.", "idempotency_key": "doors-9"},
            {"channel": "score.42", "data": {"home": 2, "away": 1}, "event": "goal"},
        ]
    },
)

HISTORY = _operation(
    "history",
    "Reading",
    "Read a channel's history",
    "Messages in order of position. With `after`, or without both, the page has the oldest messages above it; with "
    "`before` alone, the newest below it. Follow `next` until it is null. To continue live, open a stream with `head` "
    "as its Last-Event-ID.",
    {
        200: (
            serializers.HistoryPage,
            "A page of the history.",
            {"messages": [STORED], "earliest": 17, "head": ID, "gap": False, "next": None},
        )
    },
    (400, 401, 403, 503),
    parameters=[
        CHANNEL_IN_PATH,
        OpenApiParameter("after", POSITION, description="Messages above this position."),
        OpenApiParameter("before", POSITION, description="Messages below this position."),
        LIMIT,
    ],
)

CHANNELS = _operation(
    "channels",
    "Reading",
    "List channels",
    "The channels that the caller can read. A user gets those that have messages, settings or listeners. A signed "
    "token gets those that it names or matches. A caller without credentials gets those that the site names, but not "
    "those that only match a pattern in its settings. Follow `next` until it is null; a page can be short.",
    {
        200: (
            serializers.ChannelPage,
            "A page of channels.",
            {"channels": [{"channel": "news", "head": ID, "listeners": 12}], "next": None},
        )
    },
    (400, 401, 503),
    parameters=[
        OpenApiParameter("after", NAME_OR_NOTHING, description="Only names after this one."),
        OpenApiParameter("prefix", NAME_OR_NOTHING, description="Only names that begin with this."),
        LIMIT,
    ],
)

CHANNEL_FACTS = _operation(
    "channel",
    "Reading",
    "Look at a channel",
    "A channel that was never used is empty. It is not an error.",
    {200: (serializers.OneChannel, "The channel.", {"channel": "news", "head": ID, "listeners": 12, "earliest": 17})},
    (400, 401, 403, 503),
    parameters=[CHANNEL_IN_PATH],
)

ISSUE_TOKEN = _operation(
    "issueToken",
    "Access",
    "Make a signed token",
    "A token can only allow what the caller is allowed to do. In `read` and `publish`, `*` matches any characters. The "
    "policy decides who can use such patterns. By default the token is for the caller. A token for another user, or "
    "without a user (null), needs the permission `streams.issue_token`. A signed token cannot make tokens.",
    {
        201: (
            serializers.IssuedToken,
            "The token.",
            {
                "token": "streams.eyJpIjoiT2…",
                "id": "O2kXw0Rk5v1s3d7Q",
                "expires_at": "2026-11-27T09:40:00Z",
                "read": ["job.17"],
                "publish": [],
                "user": "7",
            },
        )
    },
    (400, 401, 403, 413, 415, 422, 503),
    request=serializers.NewTokenBody,
    sent={"read": ["job.17"], "seconds": 600},
    unprocessable=("There is no such user.", "unknown-user", "There is no active user with this primary key."),
)

DISCONNECT = _operation(
    "disconnect",
    "Access",
    "End streams",
    "Ends the streams that match all given fields, in all processes. A token is revoked as well. Clients that are "
    "still allowed to read reconnect, and miss nothing. This needs the permission `streams.disconnect_stream`. "
    "Without it, users can end their own streams, and the holder of a token can end the token's streams.",
    {202: (serializers.Disconnected, "All processes were notified.", {"user": "7", "channel": None, "token": None})},
    (400, 401, 403, 413, 415, 422, 503),
    request=serializers.DisconnectBody,
    sent={"user": 7},
    unprocessable=(
        "The token is invalid.",
        "invalid-token",
        "The token is not valid and opens no streams: This token has expired. Ask for a new one.",
    ),
)

LIVE = _operation(
    "live",
    "Health",
    "Check that the process is alive",
    None,
    {200: (serializers.Live, "It is alive.", {"status": "ok"})},
)

READY = _operation(
    "ready",
    "Health",
    "Check that the process can serve requests",
    "`notifier` is `idle` if no stream is open in this process, and `degraded` if its listener fails. Then streams are "
    "served by polling. `database` is `not-migrated` if a table or a column of Streams is missing.",
    {
        200: (serializers.Ready, "It is ready.", {"status": "ok", "database": "ok", "notifier": "ok"}),
        503: (
            serializers.Ready,
            "It is not ready.",
            {"status": "unavailable", "database": "unavailable", "notifier": "idle"},
        ),
    },
    (400,),
    parameters=[
        OpenApiParameter(
            "require",
            {"type": "string", "enum": ["notifier"]},
            description="`notifier`: answer 503 while the listener fails.",
        ),
        OpenApiParameter("Retry-After", int, OpenApiParameter.HEADER, response=[503]),
    ],
)

SCHEMA: dict[str, Any] = {
    "operation_id": "schema",
    "tags": ["Schema"],
    "summary": "Get the OpenAPI document",
    "responses": {200: OpenApiResponse({"type": "object"}, "An OpenAPI document.")},
}
