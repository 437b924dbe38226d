"""What the views that publish share, DRF's and the async one: from a body to messages, and from these to an answer.

Nothing here does I/O; see streams.publishing for what does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib.auth import get_user_model
from django.http import HttpRequest

from streams.addresses import address_key, client_address
from streams.api.serializers import NewMessageBody, NewMessagesBody, checked
from streams.conf import settings
from streams.events import NewMessage, validate_idempotency_key
from streams.exceptions import HTTPError, IdempotencyKeyInUse, IdempotencyKeyReused, InvalidMessage
from streams.models import Message
from streams.policies import BasePolicy
from streams.tokens import Token


def one_message(channel: str, payload: Any, request: HttpRequest, user: Any) -> NewMessage:
    """The message that a body holds. Raises ValidationError or HTTPError."""
    try:
        key = validate_idempotency_key(request.headers.get("Idempotency-Key"))
    except InvalidMessage as error:
        raise HTTPError(400, "invalid-request", str(error), fields={"Idempotency-Key": str(error)}) from None
    told = checked(NewMessageBody, payload)
    return NewMessage(channel, told["data"], told["event"], key, _publisher(user), strict_key=True)


def many_messages(payload: Any, request: HttpRequest, user: Any) -> list[NewMessage]:
    """The messages that a body holds. Raises ValidationError or HTTPError."""
    if "Idempotency-Key" in request.headers:
        problem = "Of several messages each has a key of its own, as its `idempotency_key` in the body."
        raise HTTPError(400, "invalid-request", problem, fields={"Idempotency-Key": problem})
    told = checked(NewMessagesBody, payload)
    publisher = _publisher(user)
    return [
        NewMessage(item["channel"], item["data"], item["event"], item["idempotency_key"], publisher, strict_key=True)
        for item in told["messages"]
    ]


def _publisher(user: Any) -> Any:
    # A site's authentication may give users that are in no table.
    return user if user is not None and user.is_authenticated and isinstance(user, get_user_model()) else None


def refusal(policy: BasePolicy, refused: Sequence[str]) -> HTTPError:
    """What is answered where the policy lets nobody publish to these."""
    return HTTPError(403, "forbidden", policy.refusal_to_publish(refused))


def caller_of(request: HttpRequest, user: Any, auth: Any) -> str:
    """Whose rate it is: the user's, else the token's, else the address's."""
    if user is not None and user.is_authenticated:
        return f"user:{user.pk}"
    return f"token:{auth.id}" if isinstance(auth, Token) else address_key(client_address(request))


def check_count(messages: int) -> None:
    """Raise HTTPError where so many would never be within the rate."""
    most = settings.PUBLISH_MESSAGES_PER_MINUTE
    if most is not None and messages > most:
        raise HTTPError(
            400,
            "too-many-messages",
            f"At most {most} messages a minute are published (STREAMS['PUBLISH_MESSAGES_PER_MINUTE']); got {messages} "
            "at once. Send them in several requests.",
        )


def check_wait(seconds: int) -> None:
    """Raise HTTPError where the caller has to wait."""
    if seconds:
        raise HTTPError(
            429,
            "publish-rate",
            f"You may publish {settings.PUBLISH_MESSAGES_PER_MINUTE} messages a minute "
            f"(STREAMS['PUBLISH_MESSAGES_PER_MINUTE']). Try again in {seconds} s.",
            retry_after_seconds=seconds,
        )


def as_error(error: InvalidMessage | IdempotencyKeyInUse) -> HTTPError:
    """Return the answer to messages that the log refuses."""
    if isinstance(error, IdempotencyKeyInUse):
        return HTTPError(409, "idempotency-key-in-use", str(error), retry_after_seconds=1)
    if isinstance(error, IdempotencyKeyReused):
        return HTTPError(422, "idempotency-key-reused", str(error))
    return HTTPError(400, "invalid-request", str(error))


def answer(rows: Sequence[Message]) -> tuple[int, list[dict[str, Any]]]:
    """The status, and what became of each message."""
    seen: set[int] = set()
    told = []
    for row in rows:
        # Of two with the same key in one request, the first is new.
        new = row.is_new and row.pk not in seen
        seen.add(row.pk)
        told.append(
            {
                "id": row.position,
                "channel": row.channel,
                "event": row.event,
                "created_at": row.created_at.isoformat().replace("+00:00", "Z"),
                "idempotency_key": row.idempotency_key,
                "new": new,
            }
        )
    return (201 if any(item["new"] for item in told) else 200), told
