"""Limit the number of open streams: in this process, in all processes, of a user, and from an address.

A stream beyond a limit is refused with 429. This process's own streams are counted exactly. The numbers of the other
processes are read every PRESENCE_SECONDS (see `presence`), so that no request queries the database. If many streams are
opened in several processes in between, their sum can exceed a limit. Without PRESENCE_SECONDS, each process counts only
its own streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from weakref import WeakSet

from django.http import HttpRequest

from streams.access.request_user import user_of
from streams.conf import configured, settings
from streams.delivery.subscriber import open_streams
from streams.exceptions import HTTPError
from streams.http.client_address import address_key, client_address, parse_address
from streams.presence import counter, node_row
from streams.presence.slots import Slot, Slots

RETRY_AFTER_SECONDS = 5


def check(request: HttpRequest) -> None:
    """Raise HTTPError, 429, if the request's stream would exceed a limit. Call it after the policy."""
    with counter.slots():  # so that no other thread sees that slot as taken
        take(request).release()


def take(request: HttpRequest) -> Slot:
    """Return a slot for the request's stream. The subscriber releases it. Raise HTTPError as check() does."""
    user_key, address = _user_key(request), _address_key(request)
    with (slots := counter.slots()):
        if (refusal := next(_over(slots, user_key, address), None)) is not None and _forget_ended_loops():
            refusal = next(_over(slots, user_key, address), None)
        if refusal is not None:
            raise refusal
        _loops.add(asyncio.get_running_loop())
        return slots.take(*filter(None, (user_key, address)))


def caller_of(request: HttpRequest) -> str:
    """Return the key by which a request's reads of the log take turns: its user if that is known, or its address."""
    user = user_of(request)
    return address_key(client_address(request)) if user is None else f"user {user.pk}"


def _user_key(request: HttpRequest) -> str | None:
    # The user of a stream of public channels is usually not loaded. Such a stream counts only for its address.
    if settings.MAX_STREAMS_PER_USER is None or (user := user_of(request)) is None:
        return None
    return f"user {user.pk}"


def _address_key(request: HttpRequest) -> str | None:
    if settings.MAX_STREAMS_PER_ADDRESS is None or is_probably_shared(request):
        return None
    return address_key(client_address(request))


def is_probably_shared(request: HttpRequest) -> bool:
    """Return True if the peer looks like a proxy that the site has not named, so that many clients have its address.

    Then the default of MAX_STREAMS_PER_ADDRESS does not apply, but a limit that the site has set applies.
    """
    if settings.TRUSTED_PROXIES or "MAX_STREAMS_PER_ADDRESS" in configured():
        return False
    peer = parse_address(str(request.META.get("REMOTE_ADDR") or ""))
    return peer is None or not peer.is_global


def _over(slots: Slots, user: str | None, address: str | None) -> Iterator[HTTPError]:
    """Yield an error for each limit that one more stream would exceed. `user`, `address`: its keys, or None."""
    own, others = slots.total(), node_row.others()
    limit = settings.MAX_STREAMS_PER_PROCESS
    if limit is not None and own >= limit:
        yield _refusal(
            "too-many-streams",
            f"This process serves its {limit} streams (STREAMS['MAX_STREAMS_PER_PROCESS']). Try again later.",
        )
    limit = settings.MAX_STREAMS
    if limit is not None and own + others.connections >= limit:
        yield _refusal(
            "too-many-streams",
            f"This site serves its {limit} streams (STREAMS['MAX_STREAMS']). Try again later.",
        )
    limit = settings.MAX_STREAMS_PER_USER
    if user and limit is not None and slots.taken(user) + others.callers.get(user, 0) >= limit:
        yield _refusal(
            "too-many-streams-of-user",
            f"You have {limit} open streams, the maximum for a user (STREAMS['MAX_STREAMS_PER_USER']). Close one, and "
            "try again.",
        )
    limit = settings.MAX_STREAMS_PER_ADDRESS
    if address and limit is not None and slots.taken(address) + others.callers.get(address, 0) >= limit:
        yield _refusal(
            "too-many-streams-of-address",
            f"Your address has {limit} open streams, the maximum for an address "
            "(STREAMS['MAX_STREAMS_PER_ADDRESS']). Close one, and try again.",
        )


def _refusal(code: str, text: str) -> HTTPError:
    return HTTPError(429, code, text, retry_after_seconds=RETRY_AFTER_SECONDS)


def _forget_ended_loops() -> bool:
    """Forget streams that were still open when their event loop ended, as in tests. Return True if there were any."""
    with counter.slots():
        ended = [loop for loop in _loops if loop.is_closed()]
        for loop in ended:
            _loops.discard(loop)
        if ended:
            open_streams()
        return bool(ended)


# The event loops on which streams were opened. Change it only within `with counter.slots()`.
_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
