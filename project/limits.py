"""Limits for the streams of `/random` and `/chat/send`, because the app's limits apply only to streams of the log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Generic, TypeVar

from django.http import HttpRequest

from streams.delivery.limits import is_probably_shared
from streams.exceptions import HTTPError
from streams.http.client_address import address_key, client_address
from streams.presence.slots import Slot, Slots

T = TypeVar("T")

# These limits apply to each process.
MAX_STREAMS = 500
MAX_STREAMS_PER_ADDRESS = 20
RETRY_AFTER_SECONDS = 5

_slots = Slots()


def limited(request: HttpRequest, items: AsyncGenerator[T]) -> AsyncIterator[T]:
    """Wrap `items` in an iterator that counts as one stream until it ends. Raise HTTPError (429) over the limit."""
    return _Counted(items, _take_slot(request))


class _Counted(Generic[T]):
    """An iterator that releases its slot. A generator would not release it if it were closed before it started."""

    def __init__(self, items: AsyncGenerator[T], slot: Slot) -> None:
        self._items = items
        self._slot = slot

    def __aiter__(self) -> _Counted[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await anext(self._items)
        except BaseException:
            self._slot.release()
            raise

    async def aclose(self) -> None:
        self._slot.release()
        await self._items.aclose()


def _take_slot(request: HttpRequest) -> Slot:
    keys = [] if is_probably_shared(request) else [address_key(client_address(request))]
    with _slots:
        if _slots.total() >= MAX_STREAMS:
            raise _too_many(f"This process already serves {MAX_STREAMS} streams of this kind.")
        if any(_slots.taken(key) >= MAX_STREAMS_PER_ADDRESS for key in keys):
            raise _too_many(f"Your address already has {MAX_STREAMS_PER_ADDRESS} streams of this kind.")
        return _slots.take(*keys)


def _too_many(reason: str) -> HTTPError:
    return HTTPError(
        429, "too-many-streams", f"{reason} Try again when one has ended.", retry_after_seconds=RETRY_AFTER_SECONDS
    )
