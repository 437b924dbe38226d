"""Signed tokens over HTTP: for the requester itself, and with a permission for others. See streams.tokens."""

from __future__ import annotations

import datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from rest_framework.exceptions import NotAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from streams.api import descriptions
from streams.api.base import StreamsAPIView
from streams.api.schema import described
from streams.api.serializers import NewTokenBody, checked
from streams.exceptions import HTTPError
from streams.policies import get_policy, has_permission
from streams.tokens import Token, is_pattern, make_token, read_token

ISSUE = "streams.issue_token"


class Tokens(StreamsAPIView):
    """Tokens that others may hold."""

    needs_credentials = True
    takes_small_bodies_only = True
    takes_signed_tokens = False  # they are told so

    @described(**descriptions.ISSUE_TOKEN)
    def post(self, request: Request) -> Response:
        if isinstance(request.auth, Token):
            raise HTTPError(
                403,
                "signed-token",
                "A signed token makes no tokens, or it would live for ever. Ask as the user: by a session, or a key.",
            )
        if not request.user.is_authenticated:
            raise NotAuthenticated
        told = checked(NewTokenBody, request.data)
        check_grants(request, told["read"], told["publish"])
        user = _in_whose_name(request, told)
        try:
            text = make_token(read=told["read"], publish=told["publish"], user=user, seconds=told.get("seconds"))
        except ValueError as error:  # of names that are each in order, there are too many for a URL
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
    """Raise HTTPError where the requester may not do itself what the token would allow."""
    policy, http_request = get_policy(), request._request

    def refused(asked: list[str], *, to_publish: bool) -> list[str]:
        ask = policy.ask_to_publish if to_publish else policy.ask_to_read
        names, patterns = ([each for each in asked if is_pattern(each) is kind] for kind in (False, True))
        left = [each for each in patterns if not policy.ask_to_grant_pattern(http_request, each, to_publish=to_publish)]
        return [*(ask(http_request, names) if names else ()), *left]

    if found := refused(read, to_publish=False):
        raise HTTPError(403, "forbidden", policy.refusal(found))
    if found := refused(publish, to_publish=True):
        raise HTTPError(403, "forbidden", policy.refusal_to_publish(found))


def _in_whose_name(request: Request, told: dict[str, Any]) -> Any:
    """The user for whom the token is. Raises HTTPError: 403, or 400 where there is none."""
    if "user" not in told or told["user"] == str(request.user.pk):
        if isinstance(request.user, get_user_model()):
            return request.user
        raise HTTPError(403, "forbidden", "Tokens are for users in this site's table, and you are in none.")
    if not has_permission(request.user, ISSUE):
        raise HTTPError(
            403, "forbidden", f"To make tokens in another's name, or in nobody's, takes the permission {ISSUE}."
        )
    if told["user"] is None:
        return None
    try:
        user = get_user_model()._default_manager.filter(pk=told["user"], is_active=True).first()
    except (TypeError, ValueError, OverflowError, ValidationError):  # a key of another kind of user
        user = None
    if user is None:
        problem = "There is no active user with this primary key."
        raise HTTPError(422, "unknown-user", problem, fields={"user": problem})
    return user
