"""Ending streams over HTTP, in all processes. See streams.revocation."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from rest_framework.exceptions import NotAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from streams import rates, revocation
from streams.api import descriptions
from streams.api.base import StreamsAPIView
from streams.api.publishing import caller_of, check_wait
from streams.api.schema import described
from streams.api.serializers import DisconnectBody, checked
from streams.exceptions import HTTPError, InvalidToken
from streams.policies import has_permission
from streams.redaction import PREFIX
from streams.tokens import Token, read_token

DISCONNECT = "streams.disconnect_stream"


class Disconnect(StreamsAPIView):
    """Streams that are to end."""

    takes_small_bodies_only = True

    @described(**descriptions.DISCONNECT)
    def post(self, request: Request) -> Response:
        told = checked(DisconnectBody, request.data)
        if not _may_end(request, told):
            if request.successful_authenticator is None:
                raise NotAuthenticated
            raise HTTPError(
                403,
                "forbidden",
                f"To end streams of others takes the permission {DISCONNECT}. Without it, a user may end their own, "
                "and whoever has a token those of the token.",
            )
        if told.get("user") is not None:
            told["user"] = _as_key(told["user"])
        if not _may_end_others(request):
            # Each goes to all processes, and has them look: whoever needs no right for it may not do it without end.
            check_wait(rates.take(caller_of(request._request, request.user, request.auth), 1))
        try:
            revocation.disconnect(**told)
        except ValueError as error:
            raise HTTPError(422, "invalid-token", str(error), fields={"token": str(error)}) from None
        token = told.get("token")
        token_id = read_token(token).id if token and token.startswith(PREFIX) else token
        return Response({"user": told.get("user"), "channel": told.get("channel"), "token": token_id}, status=202)


def _may_end(request: Request, told: dict[str, Any]) -> bool:
    """A token is revoked for good, so that it takes a right to the token itself, whoever is named besides."""
    if _may_end_others(request):
        return True
    token, by_token = told.get("token"), isinstance(request.auth, Token)
    if token is not None:
        return _is_whole(token) or (by_token and token == request.auth.id)
    return not by_token and request.user.is_authenticated and told.get("user") == str(request.user.pk)


def _may_end_others(request: Request) -> bool:
    # A signed token has not the rights of its user: it reads and publishes what it names, and ends itself.
    by_token = isinstance(request.auth, Token)
    return not by_token and request.user.is_authenticated and has_permission(request.user, DISCONNECT)


def _as_key(text: str) -> str:
    """A user's primary key as it is written where streams are counted by it. Raises HTTPError: 422."""
    try:
        return str(get_user_model()._meta.pk.to_python(text))
    except ValidationError:
        problem = "This is no primary key of this site's users."
        raise HTTPError(422, "unknown-user", problem, fields={"user": problem}) from None


def _is_whole(token: str) -> bool:
    """Whether this site has signed it. Whoever knows a token's text holds it, and need not say who they are."""
    try:
        read_token(token)
    except InvalidToken as error:
        return error.code == "expired-token"
    return True
