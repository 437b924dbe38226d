"""Authentication by signed tokens, for DRF. Other credentials are left to the site's own classes."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AnonymousUser
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from streams.exceptions import InvalidToken
from streams.tokens import Token, token_of, user_of_token


class SignedTokenAuthentication(BaseAuthentication):
    """Authenticates by `Authorization: Bearer streams.…` or `?token=streams.…`.

    `request.user` is the token's user, or AnonymousUser if it has none. `request.auth` is the Token.
    """

    def authenticate(self, request: Request) -> tuple[Any, Token] | None:
        try:
            token = token_of(request._request)
        except InvalidToken as error:
            raise AuthenticationFailed(str(error), error.code) from None
        return None if token is None else (user_of_token(request._request) or AnonymousUser(), token)

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def unknown_token() -> AuthenticationFailed:
    """Return the error for a Bearer token that no authentication class has accepted."""
    return AuthenticationFailed("Invalid token: it was not issued by this site. Ask for a new one.", "invalid-token")
