"""Publish at a high rate: the same as POST channels/<channel>/messages/, but without a thread for each request.

It accepts signed tokens only. With a token that has no user, a request waits only for the write, and requests that
arrive together share one transaction.
"""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse
from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated
from rest_framework.permissions import AllowAny

from streams.access.request_user import set_user
from streams.api import publishing
from streams.api.authentication import SignedTokenAuthentication, unknown_token
from streams.api.openapi import descriptions
from streams.api.openapi.schema import described
from streams.api.requests.bodies import parse_json, read_body
from streams.api.views.base import StreamsAPIView, async_view
from streams.exceptions import InvalidToken
from streams.http.json_responses import json_response
from streams.policies import get_policy
from streams.protocol.events import NewMessage, validate_channel
from streams.protocol.json_bodies import SMALL_BODY_BYTES
from streams.publishing import rate_limit
from streams.publishing.publish import apublish_many
from streams.runtime import failures
from streams.tokens import Token, atoken_of, bearer, user_of_token


class FastMessages(StreamsAPIView):
    """Describes fast_publish() for the schema, and applies the site's permission and throttle classes to it."""

    authentication_classes = [SignedTokenAuthentication]
    needs_credentials = True

    @described(**descriptions.PUBLISH_FAST)
    def post(self, request: Any, channel: str) -> Any:
        raise NotImplementedError


@async_view(FastMessages, "POST")
async def fast_publish(request: HttpRequest, channel: str) -> HttpResponse:
    """Publish the body's message to `channel`."""
    token = await _authenticate(request)
    await _check_site_rules(request, channel)
    validate_channel(channel)
    policy = get_policy()
    if refused := await policy.adenied_publish_channels(request, [channel]):
        raise publishing.refusal(policy, refused)
    message = await _read_message(request, channel)
    publishing.check_count(1)
    publishing.check_wait(await rate_limit.atake(publishing.caller_of(request, request.user, token), 1))
    rows = await apublish_many([message])
    failures.DATABASE.recovered()
    status, [message_data] = publishing.answer(rows)
    return json_response(message_data, status, [("Allow", "POST, OPTIONS")])


async def _read_message(request: HttpRequest, channel: str) -> NewMessage:
    """Return the message in the body. Raises ValidationError or HTTPError."""
    body = read_body(request)

    def parse() -> NewMessage:
        return publishing.one_message(channel, parse_json(body), request, request.user)

    # Parsing a large body would block the event loop, and with it all streams of this process.
    return parse() if len(body) <= SMALL_BODY_BYTES else await asyncio.to_thread(parse)


async def _authenticate(request: HttpRequest) -> Token:
    """Return the request's token, and set request.user to its user. Raises AuthenticationFailed, NotAuthenticated."""
    try:
        token = await atoken_of(request)
    except InvalidToken as error:
        raise AuthenticationFailed(str(error), error.code) from None
    if token is None:
        raise unknown_token() if bearer(request) is not None else NotAuthenticated()
    set_user(request, user_of_token(request) or AnonymousUser())
    return token


async def _check_site_rules(request: HttpRequest, channel: str) -> None:
    """Apply the site's permission and throttle classes. They are sync, so it takes a thread only if there are any."""
    if set(FastMessages.permission_classes) - {AllowAny} or FastMessages.throttle_classes:
        await sync_to_async(_apply_site_rules)(request, channel)


def _apply_site_rules(request: HttpRequest, channel: str) -> None:
    view = FastMessages()
    view.setup(request, channel=channel)
    view.initial(view.initialize_request(request, channel=channel), channel=channel)
