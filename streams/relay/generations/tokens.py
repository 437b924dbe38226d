"""A generation's tokens: signed tokens (streams.tokens) that let their bearer read and cancel this one answer.

They stand for the generation's owner, in a URL too, because an EventSource has no headers. They end with the owner's
password, when the owner is deactivated or deleted, and with disconnect(user).
"""

from __future__ import annotations

from django.core.exceptions import TooManyFieldsSent
from django.http import HttpRequest

from streams.conf import settings as core_settings
from streams.exceptions import InvalidToken, too_many_parameters
from streams.redaction import PARAMETER, PREFIX
from streams.relay.access import bearer
from streams.relay.conf import settings
from streams.relay.models import Generation
from streams.tokens import KEPT, atoken_of, make_token, token_of


def make(generation: Generation) -> str:
    """Return a token of a generation whose owner is loaded. It is good for GENERATION_TOKEN_SECONDS."""
    seconds = min(settings.GENERATION_TOKEN_SECONDS, core_settings.MAX_TOKEN_SECONDS)
    return make_token(read=[generation.channel], user=generation.owner, seconds=seconds, id=_id_of(generation))


async def take(request: HttpRequest) -> str | None:
    """Return the signed token that the request carries in its URL or as its Authorization, if it holds; or None.

    The request then counts as one with this token, or as one without a token. See is_of() as well. Raises HTTPError:
    400 if the query has too many parameters.
    """
    try:
        carried = (bearer(request), *request.GET.getlist(PARAMETER))  # in the order in which streams.tokens looks
    except TooManyFieldsSent:
        raise too_many_parameters() from None
    text = next((text for text in carried if text and text.startswith(PREFIX)), None)
    try:
        await atoken_of(request)
    except InvalidToken:
        ignore(request)  # the session can be the owner's all the same
        return None
    return text


def ignore(request: HttpRequest) -> None:
    """Treat the request from now on as one without a token."""
    request.__dict__[KEPT] = None


def is_of(request: HttpRequest, generation: Generation) -> bool:
    """Return True if the token that take() has found is this generation's, and was not taken back."""
    token = token_of(request)
    owner = None if generation.owner_id is None else str(generation.owner_id)
    return token is not None and token.id == _id_of(generation) and token.user == owner


def _id_of(generation: Generation) -> str:
    return f"{generation.pk}.{generation.token_series}"
