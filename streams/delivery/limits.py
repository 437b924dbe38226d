"""Limit the number of open streams: in this process, in all processes, of a user, and from an address.

A stream beyond a limit is refused with 429. This process's own streams are counted exactly. The numbers of the other
processes are read every PRESENCE_SECONDS (see `presence`), so that no request queries the database. If many streams are
opened in several processes in between, their sum can exceed a limit. Without PRESENCE_SECONDS, each process counts only
its own streams.
"""

from __future__ import annotations

from django.http import HttpRequest

from streams.access.request_user import user_of
from streams.conf import configured, settings
from streams.delivery.subscriber import forget_ended_loops
from streams.exceptions import HTTPError
from streams.http.client_address import address_key, client_address, parse_address
from streams.presence import counter, node_row
from streams.presence.slots import Slot, Slots

RETRY_AFTER_SECONDS = 5

# {0} is the limit, {1} the name of its setting.
PROCESS_IS_FULL = "This process serves its {0} streams (STREAMS['{1}']). Try again later."
SITE_IS_FULL = "This site serves its {0} streams (STREAMS['{1}']). Try again later."
USER_HAS_MANY = "You have {0} open streams, the maximum for a user (STREAMS['{1}']). Close one, and try again."
ADDRESS_HAS_MANY = (
    "Your address has {0} open streams, the maximum for an address (STREAMS['{1}']). Close one, and try again."
)


def check(request: HttpRequest) -> None:
    """Raise HTTPError, 429, if the request's stream would exceed a limit. Call it after the policy."""
    with counter.slots():  # so that no other thread sees that slot as taken
        take(request).release()


def take(request: HttpRequest) -> Slot:
    """Return a slot for the request's stream. The subscriber releases it. Raise HTTPError as check() does."""
    user_key, address = _user_key(request), _address_key(request)
    with (slots := counter.slots()):
        refusal = _refusal(slots, user_key, address)
        if refusal is not None and forget_ended_loops():
            refusal = _refusal(slots, user_key, address)
        if refusal is not None:
            raise refusal
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


def _refusal(slots: Slots, user_key: str | None, address: str | None) -> HTTPError | None:
    """Return an error for the first limit that one more stream would exceed, or None."""
    own, others = slots.total(), node_row.others()
    of_user, of_address = (
        0 if key is None else slots.taken(key) + others.callers.get(key, 0) for key in (user_key, address)
    )
    for setting, count, code, text in (
        ("MAX_STREAMS_PER_PROCESS", own, "too-many-streams", PROCESS_IS_FULL),
        ("MAX_STREAMS", own + others.connections, "too-many-streams", SITE_IS_FULL),
        ("MAX_STREAMS_PER_USER", of_user, "too-many-streams-of-user", USER_HAS_MANY),
        ("MAX_STREAMS_PER_ADDRESS", of_address, "too-many-streams-of-address", ADDRESS_HAS_MANY),
    ):
        limit = getattr(settings, setting)
        if limit is not None and count >= limit:
            return HTTPError(429, code, text.format(limit, setting), retry_after_seconds=RETRY_AFTER_SECONDS)
    return None
