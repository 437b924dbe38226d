"""Find a generation for a request, and check that the request is from its owner."""

from __future__ import annotations

import re

from django.http import HttpRequest

from streams.exceptions import HTTPError
from streams.relay.access import Principal, identify
from streams.relay.generations import chunks, housekeeping, tokens
from streams.relay.models import ID_LENGTH, Generation
from streams.runtime import executor
from streams.runtime.request_resources import close_request_connections


async def find(request: HttpRequest, id: str) -> tuple[Generation, Principal, str | None]:
    """Return the generation's row, the principal, and the generation's token if the request has it.

    Raises HTTPError (401, 403 or 404) if the request is not from its owner.
    """
    if not ID.fullmatch(id):
        raise not_found()
    token = await tokens.take(request)
    principal = None if token is not None else await identify(request)
    await close_request_connections()
    try:
        generation = await executor.run(chunks.get, id)
        if generation.is_active and await executor.run(housekeeping.reap_one, generation):
            generation = await executor.run(chunks.get, id)
    except Generation.DoesNotExist:
        raise not_found() from None
    owner = generation.owner
    if owner is None and generation.owner_id is not None:  # the user was deleted, and the generation is about to be
        raise not_found()
    if token is not None and tokens.is_of(request, generation):
        return generation, Principal(owner, generation.caller), token
    if principal is None:
        tokens.ignore(request)
        principal = await identify(request)
        await close_request_connections()
    if principal.user is None or owner is None or principal.user.pk != owner.pk:
        raise HTTPError(403, "forbidden", "This answer belongs to another user, or its token has expired.")
    return generation, principal, None


def not_found() -> HTTPError:
    return HTTPError(404, "not-found", "This answer does not exist. Old answers are deleted.")


ID = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")
