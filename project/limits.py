"""A limit for the demo site's own streams, `/random` and `/chat/send`, which the limits of the log do not count."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Generic, TypeVar

from django.http import HttpRequest

from streams.addresses import address_key, client_address
from streams.exceptions import HTTPError
from streams.limits import is_probably_shared
from streams.places import Place, Places

T = TypeVar("T")

# In each process.
MAX_STREAMS = 500
MAX_STREAMS_PER_ADDRESS = 20
RETRY_AFTER_SECONDS = 5

_places = Places()


def limited(request: HttpRequest, items: AsyncGenerator[T]) -> AsyncIterator[T]:
    """Return `items` as an iterator that counts as one stream until it ends. Raises HTTPError: 429."""
    return _Counted(items, _take_place(request))


class _Counted(Generic[T]):
    """Not a generator: closing one that has not started runs none of its code, and would give no place back."""

    def __init__(self, items: AsyncGenerator[T], place: Place) -> None:
        self._items = items
        self._place = place

    def __aiter__(self) -> _Counted[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await anext(self._items)
        except BaseException:
            self._place.release()
            raise

    async def aclose(self) -> None:
        self._place.release()
        await self._items.aclose()


def _take_place(request: HttpRequest) -> Place:
    keys = [] if is_probably_shared(request) else [address_key(client_address(request))]
    with _places:
        if _places.total() >= MAX_STREAMS:
            raise _too_many(f"This process serves its {MAX_STREAMS} streams of this kind.")
        if any(_places.taken(key) >= MAX_STREAMS_PER_ADDRESS for key in keys):
            raise _too_many(f"Your address has {MAX_STREAMS_PER_ADDRESS} streams of this kind open.")
        return _places.take(*keys)


def _too_many(what: str) -> HTTPError:
    return HTTPError(
        429, "too-many-streams", f"{what} Try again when one has ended.", retry_after_seconds=RETRY_AFTER_SECONDS
    )
