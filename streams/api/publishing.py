"""Code that DRF's views and the async view share: a body becomes messages, and their rows become a response. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib.auth import get_user_model
from django.http import HttpRequest

from streams.api.requests.serializers import NewMessageBody, NewMessagesBody, checked
from streams.conf import settings
from streams.exceptions import HTTPError, InvalidMessage
from streams.http.client_address import address_key, client_address
from streams.models import Message
from streams.policies import BasePolicy
from streams.protocol.events import NewMessage, validate_idempotency_key
from streams.tokens import Token


def one_message(channel: str, payload: Any, request: HttpRequest, user: Any) -> NewMessage:
    """Return the message in a body. Raises ValidationError or HTTPError."""
    try:
        key = validate_idempotency_key(request.headers.get("Idempotency-Key"))
    except InvalidMessage as error:
        raise HTTPError(400, "invalid-request", str(error), fields={"Idempotency-Key": str(error)}) from None
    data = checked(NewMessageBody, payload)
    return NewMessage(channel, data["data"], data["event"], key, _publisher(user), strict_key=True)


def many_messages(payload: Any, request: HttpRequest, user: Any) -> list[NewMessage]:
    """Return the messages in a body. Raises ValidationError or HTTPError."""
    if "Idempotency-Key" in request.headers:
        problem = "Several messages need a key each: set `idempotency_key` of each message in the body."
        raise HTTPError(400, "invalid-request", problem, fields={"Idempotency-Key": problem})
    data = checked(NewMessagesBody, payload)
    publisher = _publisher(user)
    return [
        NewMessage(item["channel"], item["data"], item["event"], item["idempotency_key"], publisher, strict_key=True)
        for item in data["messages"]
    ]


def _publisher(user: Any) -> Any:
    # A site's authentication class can return users that are not rows of the user table.
    return user if isinstance(user, get_user_model()) else None


def refusal(policy: BasePolicy, refused: Sequence[str]) -> HTTPError:
    """Return the 403 for channels to which the policy does not let the caller publish."""
    return HTTPError(403, "forbidden", policy.denied_publish_message(refused))


def caller_of(request: HttpRequest, user: Any, auth: Any) -> str:
    """Return the key of the caller's rate limit: the user, or else the token, or else the client's address."""
    if user.is_authenticated:
        return f"user:{user.pk}"
    return f"token:{auth.id}" if isinstance(auth, Token) else address_key(client_address(request))


def check_count(messages: int) -> None:
    """Raise HTTPError, 400, if so many messages at once always exceed the rate limit."""
    limit = settings.PUBLISH_MESSAGES_PER_MINUTE
    if limit is not None and messages > limit:
        raise HTTPError(
            400,
            "too-many-messages",
            f"A caller can publish at most {limit} messages a minute (STREAMS['PUBLISH_MESSAGES_PER_MINUTE']); got "
            f"{messages} at once. Send them in several requests.",
        )


def check_wait(seconds: int) -> None:
    """Raise HTTPError, 429, if the caller has to wait."""
    if seconds:
        raise HTTPError(
            429,
            "publish-rate",
            f"You can publish {settings.PUBLISH_MESSAGES_PER_MINUTE} messages a minute "
            f"(STREAMS['PUBLISH_MESSAGES_PER_MINUTE']). Try again in {seconds} s.",
            retry_after_seconds=seconds,
        )


def answer(rows: Sequence[Message]) -> tuple[int, list[dict[str, Any]]]:
    """Return the status and, for each message, what the response says about it."""
    seen: set[int] = set()
    published = []
    for row in rows:
        # If two messages of a request have the same key, only the first one is new.
        new = row.is_new and row.pk not in seen
        seen.add(row.pk)
        published.append(
            {
                "id": row.position,
                "channel": row.channel,
                "event": row.event,
                "created_at": row.created_at.isoformat().replace("+00:00", "Z"),
                "idempotency_key": row.idempotency_key,
                "new": new,
            }
        )
    return (201 if any(item["new"] for item in published) else 200), published
