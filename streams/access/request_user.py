"""Find the user of a request without triggering a query for the session or the user."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from streams.private.django import loaded_user
from streams.tokens import token_of, user_of_token

# The primary key, as text, of a user who is not logged in.
ANONYMOUS = ""


def user_of(request: HttpRequest) -> Any:
    """Return the user of the request's token, or else the logged-in user if other code has loaded it; None otherwise.

    Middleware or a policy can have loaded the user. None can also mean that no code has done so: see known_user().
    """
    if token_of(request) is not None:
        return user_of_token(request)
    user = loaded_user(request)
    return user if getattr(user, "is_authenticated", False) and user.pk is not None else None


def known_user(request: HttpRequest) -> str | None:
    """Return the primary key of the request's user as text, ANONYMOUS, or None if no code has loaded the user yet."""
    if (user := user_of(request)) is not None:
        return str(user.pk)
    is_known = token_of(request) is not None or "user" not in request.__dict__ or loaded_user(request) is not None
    return ANONYMOUS if is_known else None


def set_user(request: HttpRequest, user: Any) -> None:
    """Set the user that sync and async code finds on the request."""

    async def auser() -> Any:
        return user

    request.user, request.auser = user, auser
