"""Find the user of a request without triggering a query for the session or the user."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from streams.private.django import loaded_user
from streams.tokens import token_of, user_of_token


def user_of(request: HttpRequest) -> Any:
    """Return the user of the request's token, or else the signed-in user if other code has loaded it; None otherwise.

    Middleware or a policy can have loaded the user. None can also mean that no code has done so: see is_known().
    """
    if token_of(request) is not None:
        return user_of_token(request)
    user = loaded_user(request)
    return user if getattr(user, "is_authenticated", False) and user.pk is not None else None


def is_known(request: HttpRequest) -> bool:
    """Return True if the request's user is known, so that None from user_of() means that it has no user."""
    return token_of(request) is not None or "user" not in request.__dict__ or loaded_user(request) is not None
