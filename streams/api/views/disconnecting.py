"""The view that ends streams, in all processes. See streams.access.revocation."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from rest_framework.exceptions import NotAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from streams.access import revocation
from streams.api.openapi import descriptions
from streams.api.openapi.schema import described
from streams.api.publishing import caller_of, check_wait
from streams.api.requests.serializers import DisconnectBody, checked
from streams.api.views.base import StreamsAPIView
from streams.exceptions import HTTPError, InvalidToken
from streams.policies import has_permission
from streams.publishing import rate_limit
from streams.redaction import PREFIX
from streams.tokens import Token, read_token

DISCONNECT = "streams.disconnect_stream"


class Disconnect(StreamsAPIView):
    """Ends streams."""

    takes_small_bodies_only = True

    @described(**descriptions.DISCONNECT)
    def post(self, request: Request) -> Response:
        data = checked(DisconnectBody, request.data)
        is_user = request.user.is_authenticated and not isinstance(request.auth, Token)
        may_end_all = is_user and has_permission(request.user, DISCONNECT)  # a signed token has no permissions
        if not may_end_all and not _are_own(request, data):
            if request.successful_authenticator is None:
                raise NotAuthenticated
            raise HTTPError(
                403,
                "forbidden",
                f"Ending other users' streams needs the permission {DISCONNECT}. Without it, users can end their own "
                "streams, and the holder of a token can end the token's streams.",
            )
        if "user" in data:
            data["user"] = _as_key(data["user"])
        if not may_end_all:  # rate-limited, because each call makes all processes check their streams
            check_wait(rate_limit.take(caller_of(request._request, request.user, request.auth), 1))
        try:
            revocation.disconnect(**data)
        except ValueError as error:
            raise HTTPError(422, "invalid-token", str(error), fields={"token": str(error)}) from None
        token = data.get("token")
        token_id = read_token(token).id if token and token.startswith(PREFIX) else token
        return Response({"user": data.get("user"), "channel": data.get("channel"), "token": token_id}, status=202)


def _are_own(request: Request, data: dict[str, Any]) -> bool:
    """Return True if these streams are those of the calling user or token, or of a token that the caller holds.

    A token is revoked as well. So if a token is named, the caller must hold it, even to end the caller's own streams.
    """
    token, by_token = data.get("token"), isinstance(request.auth, Token)
    if token is not None:
        return _is_signed(token) or (by_token and token == request.auth.id)
    return not by_token and request.user.is_authenticated and data.get("user") == str(request.user.pk)


def _as_key(text: str) -> str:
    """Return a user's primary key in the form in which open streams store it. Raises HTTPError: 422."""
    try:
        return str(get_user_model()._meta.pk.to_python(text))
    except ValidationError:
        problem = "This is not a primary key of this site's users."
        raise HTTPError(422, "unknown-user", problem, fields={"user": problem}) from None


def _is_signed(token: str) -> bool:
    """Return True if this site has signed the token, even if it has expired. Its holder can revoke it."""
    try:
        read_token(token)
    except InvalidToken as error:
        return error.code == "expired-token"
    return True
