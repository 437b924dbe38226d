"""How many streams may be open: in this process, in all, of a user, from an address. Who comes over it is refused: 429.

This process's own streams are counted exactly, as they come and go. Those of the others are what these said of
themselves at this one's last beat (presence.py), so that no request asks the database: where many streams come to
several processes within one beat, each may admit as many as are left. Without PRESENCE_SECONDS each process counts for
itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from weakref import WeakSet

from django.http import HttpRequest

from streams import presence
from streams.addresses import address_key, client_address, parse_address
from streams.callers import user_of
from streams.conf import configured, settings
from streams.exceptions import HTTPError
from streams.places import Place, Places
from streams.subscriber import open_streams

RETRY_AFTER_SECONDS = 5


def check(request: HttpRequest) -> None:
    """Raise HTTPError, 429, if the request's stream would exceed a limit. Call it after the policy."""
    with presence.places():  # so that nobody else finds that place taken
        take(request).release()


def take(request: HttpRequest) -> Place:
    """A place for the request's stream, which its subscriber gives back. Raises as check() does."""
    user_key, address = _user_key(request), _address_key(request)
    with (places := presence.places()):
        if (refusal := next(_over(places, user_key, address), None)) is not None and _forget_ended_loops():
            refusal = next(_over(places, user_key, address), None)
        if refusal is not None:
            raise refusal
        _loops.add(asyncio.get_running_loop())
        return places.take(*filter(None, (user_key, address)))


def caller_of(request: HttpRequest) -> str:
    """Return the key by which a request's reads of the log take turns: its user if that is known, or its address."""
    user = user_of(request)
    return address_key(client_address(request)) if user is None else f"user {user.pk}"


def _user_key(request: HttpRequest) -> str | None:
    # A public channel is served without a query for the session and its user, and counts by its address alone.
    if settings.MAX_STREAMS_PER_USER is None or (user := user_of(request)) is None:
        return None
    return f"user {user.pk}"


def _address_key(request: HttpRequest) -> str | None:
    if settings.MAX_STREAMS_PER_ADDRESS is None or is_probably_shared(request):
        return None
    return address_key(client_address(request))


def is_probably_shared(request: HttpRequest) -> bool:
    """Return True if the peer looks like a proxy that the site has not named, so that many clients have its address.

    Then the default of MAX_STREAMS_PER_ADDRESS does not apply. A limit that the site has set itself does.
    """
    if settings.TRUSTED_PROXIES or "MAX_STREAMS_PER_ADDRESS" in configured():
        return False
    peer = parse_address(str(request.META.get("REMOTE_ADDR") or ""))
    return peer is None or not peer.is_global


def _over(places: Places, user: str | None, address: str | None) -> Iterator[HTTPError]:
    """Yield an error for each limit that one more stream would exceed. `user`, `address`: the keys it counts under."""
    own, others = places.total(), presence.others()
    most = settings.MAX_STREAMS_PER_PROCESS
    if most is not None and own >= most:
        yield _refusal(
            "too-many-streams",
            f"This process serves its {most} streams (STREAMS['MAX_STREAMS_PER_PROCESS']). Try again later.",
        )
    most = settings.MAX_STREAMS
    if most is not None and own + others.connections >= most:
        yield _refusal(
            "too-many-streams",
            f"This site serves its {most} streams (STREAMS['MAX_STREAMS']). Try again later.",
        )
    most = settings.MAX_STREAMS_PER_USER
    if user and most is not None and places.taken(user) + others.callers.get(user, 0) >= most:
        yield _refusal(
            "too-many-streams-of-user",
            f"You have {most} streams open, as many as a user may have (STREAMS['MAX_STREAMS_PER_USER']). Close one, "
            "and try again.",
        )
    most = settings.MAX_STREAMS_PER_ADDRESS
    if address and most is not None and places.taken(address) + others.callers.get(address, 0) >= most:
        yield _refusal(
            "too-many-streams-of-address",
            f"From your address {most} streams are open, as many as one may have "
            "(STREAMS['MAX_STREAMS_PER_ADDRESS']). Close one, and try again.",
        )


def _refusal(code: str, text: str) -> HTTPError:
    return HTTPError(429, code, text, retry_after_seconds=RETRY_AFTER_SECONDS)


def _forget_ended_loops() -> bool:
    """Let go of streams that were left open when their event loop ended, as in tests. Whether there were such loops."""
    with presence.places():
        ended = [loop for loop in _loops if loop.is_closed()]
        for loop in ended:
            _loops.discard(loop)
        if ended:
            open_streams()
        return bool(ended)


# On which streams have been opened. Changed within `with presence.places()`.
_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
