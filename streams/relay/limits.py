"""How many streams there are, in this process and for each caller; who comes over a limit is refused."""

from __future__ import annotations

from streams.places import Place, Places
from streams.relay.conf import settings
from streams.relay.errors import RelayError

RETRY_AFTER_SECONDS = 5

_places = Places()


def take_place(key: str) -> Place:
    """A place for a stream of the caller `key` (Caller.key). Raises RelayError: 429."""
    most, own = settings.RELAY_MAX_STREAMS, settings.RELAY_MAX_STREAMS_PER_USER
    with _places:
        if _places.taken(key) >= own:
            raise _too_many(f"You have {own} answers under way (STREAMS['RELAY_MAX_STREAMS_PER_USER']).")
        if _places.total() >= most:
            raise _too_many(f"This process relays its {most} answers (STREAMS['RELAY_MAX_STREAMS']).")
        return _places.take(key)


def places_taken() -> int:
    """How many there are in this process."""
    return _places.total()


def _too_many(what: str) -> RelayError:
    return RelayError(
        429, "too-many-streams", f"{what} Try again when one has ended.", retry_after_seconds=RETRY_AFTER_SECONDS
    )
