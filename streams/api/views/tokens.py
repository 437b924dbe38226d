"""The view that issues signed tokens. See streams.tokens."""

from __future__ import annotations

import datetime
from typing import Any

from django.contrib.auth import get_user_model
from rest_framework.exceptions import NotAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from streams.api.openapi import descriptions
from streams.api.openapi.schema import described
from streams.api.requests.serializers import NewTokenBody, checked
from streams.api.views.base import StreamsAPIView
from streams.exceptions import HTTPError
from streams.policies import get_policy, has_permission
from streams.tokens import Token, active_user, is_pattern, make_token, read_token

ISSUE = "streams.issue_token"


class Tokens(StreamsAPIView):
    """Issues tokens: for the caller, or with the permission `streams.issue_token` for other users."""

    needs_credentials = True
    takes_small_bodies_only = True
    takes_signed_tokens = False  # post() refuses them

    @described(**descriptions.ISSUE_TOKEN)
    def post(self, request: Request) -> Response:
        if isinstance(request.auth, Token):
            raise HTTPError(
                403,
                "signed-token",
                "A signed token cannot make tokens, because it could renew itself forever. Authenticate as the user, "
                "with a session or a key.",
            )
        if not request.user.is_authenticated:
            raise NotAuthenticated
        data = checked(NewTokenBody, request.data)
        check_grants(request, data["read"], data["publish"])
        user = _user_for(request, data)
        try:
            text = make_token(read=data["read"], publish=data["publish"], user=user, seconds=data.get("seconds"))
        except ValueError as error:  # each name is valid, but together they are too long for a URL
            raise HTTPError(422, "unusable-token", str(error)) from None
        token = read_token(text)
        return Response(
            {
                "token": text,
                "id": token.id,
                "expires_at": datetime.datetime.fromtimestamp(token.expires_at, datetime.UTC),
                "read": token.read,
                "publish": token.publish,
                "user": token.user,
            },
            status=201,
        )


def check_grants(request: Request, read: list[str], publish: list[str]) -> None:
    """Raise HTTPError, 403, if the token would allow something that the caller is not allowed to do."""
    policy, http_request = get_policy(), request._request

    def refused(asked: list[str], *, to_publish: bool) -> list[str]:
        denied = policy.denied_publish_channels if to_publish else policy.denied_channels
        names = [each for each in asked if not is_pattern(each)]
        patterns = filter(is_pattern, asked)
        left = [each for each in patterns if not policy.grants_pattern(http_request, each, to_publish=to_publish)]
        return [*(denied(http_request, names) if names else ()), *left]

    if found := refused(read, to_publish=False):
        raise HTTPError(403, "forbidden", policy.denied_message(found))
    if found := refused(publish, to_publish=True):
        raise HTTPError(403, "forbidden", policy.denied_publish_message(found))


def _user_for(request: Request, data: dict[str, Any]) -> Any:
    """Return the user of the token, or None for a token without a user. Raises HTTPError: 403 or 422."""
    if "user" not in data or data["user"] == str(request.user.pk):
        if isinstance(request.user, get_user_model()):
            return request.user
        problem = "You are not in this site's table of users, and tokens need one of its users."
        raise HTTPError(403, "forbidden", problem)
    if not has_permission(request.user, ISSUE):
        raise HTTPError(403, "forbidden", f"Tokens for another user, or without a user, need the permission {ISSUE}.")
    if data["user"] is None:
        return None
    if (user := active_user(get_user_model(), data["user"])) is None:
        problem = "There is no active user with this primary key."
        raise HTTPError(422, "unknown-user", problem, fields={"user": problem})
    return user
