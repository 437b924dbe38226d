"""A limit for the demo site's own streams, `/random` and `/chat/send`, which the limits of the log do not count."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import TypeVar

from django.http import HttpRequest

from streams.addresses import address_key, client_address
from streams.limits import is_probably_shared
from streams.places import Place, Places
from streams.relay.errors import RelayError

T = TypeVar("T")

# In each process.
MAX_STREAMS = 500
MAX_STREAMS_PER_ADDRESS = 20
RETRY_AFTER_SECONDS = 5

_places = Places()


def limited(request: HttpRequest, items: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Return `items` as a generator that counts as one stream until it ends. Raises RelayError: 429."""
    place = _take_place(request)

    async def counted() -> AsyncGenerator[T]:
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    yield item
        finally:
            place.release()

    return counted()


def _take_place(request: HttpRequest) -> Place:
    keys = [] if is_probably_shared(request) else [address_key(client_address(request))]
    with _places:
        if _places.total() >= MAX_STREAMS:
            raise _too_many(f"This process serves its {MAX_STREAMS} streams of this kind.")
        if any(_places.taken(key) >= MAX_STREAMS_PER_ADDRESS for key in keys):
            raise _too_many(f"Your address has {MAX_STREAMS_PER_ADDRESS} streams of this kind open.")
        return _places.take(*keys)


def _too_many(what: str) -> RelayError:
    return RelayError(
        429, "too-many-streams", f"{what} Try again when one has ended.", retry_after_seconds=RETRY_AFTER_SECONDS
    )
