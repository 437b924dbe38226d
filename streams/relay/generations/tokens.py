"""Tokens of generations: signed tokens (see streams.tokens) with which a client can read and cancel one answer.

They act for the generation's owner. They can be part of a URL, because an EventSource cannot send headers. They become
invalid when the owner's password changes, when the owner is deactivated or deleted, and by disconnect(user).
"""

from __future__ import annotations

from django.core.exceptions import TooManyFieldsSent
from django.http import HttpRequest

from streams.conf import settings as core_settings
from streams.exceptions import InvalidToken, too_many_parameters
from streams.relay.conf import settings
from streams.relay.models import Generation
from streams.tokens import CACHE_ATTRIBUTE, atoken_of, find_text, make_token, token_of


def make(generation: Generation) -> str:
    """Return a token for a generation, whose owner must be loaded. It is valid for GENERATION_TOKEN_SECONDS."""
    seconds = min(settings.GENERATION_TOKEN_SECONDS, core_settings.MAX_TOKEN_SECONDS)
    return make_token(read=[generation.channel], user=generation.owner, seconds=seconds, id=_id_of(generation))


async def take(request: HttpRequest) -> str | None:
    """Return the valid signed token in the request's URL or Authorization header, or None.

    Afterwards, the request is treated as one with this token, or without a token. See also is_of(). Raises HTTPError:
    400 if the query has too many parameters.
    """
    try:
        text = find_text(request)
    except TooManyFieldsSent:
        raise too_many_parameters() from None
    try:
        await atoken_of(request)
    except InvalidToken:
        ignore(request)  # the request's session can still be the owner's
        return None
    return text


def ignore(request: HttpRequest) -> None:
    """Treat the request as one without a token from now on."""
    request.__dict__[CACHE_ATTRIBUTE] = None


def is_of(request: HttpRequest, generation: Generation) -> bool:
    """Return True if the token that take() has found belongs to this generation and was not revoked."""
    token = token_of(request)
    owner = None if generation.owner_id is None else str(generation.owner_id)
    return token is not None and token.id == _id_of(generation) and token.user == owner


def _id_of(generation: Generation) -> str:
    return f"{generation.pk}.{generation.token_series}"
