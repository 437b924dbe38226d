"""Whose a request is, as far as that is known: nobody is asked here, for asking costs a query for session and user."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from streams.private.django import loaded_user
from streams.tokens import token_of, user_of_token


def user_of(request: HttpRequest) -> Any:
    """The user whose a request is known to be; None where nobody is known.

    The one in whose name the request's token is. Without a token the one who is signed in, if anybody has asked who
    that is: a policy that had to know, or a middleware.
    """
    if token_of(request) is not None:
        return user_of_token(request)
    user = seen_user(request)
    return user if getattr(user, "is_authenticated", False) and user.pk is not None else None


def is_known(request: HttpRequest) -> bool:
    """Whether somebody has asked, so that None of user_of() means nobody."""
    return token_of(request) is not None or "user" not in request.__dict__ or seen_user(request) is not None


def seen_user(request: HttpRequest) -> Any:
    """The user whom somebody has looked at, signed in or not, whatever token there is; None where nobody has."""
    return loaded_user(request)
