"""How many streams there are, in this process and for each caller; who comes over a limit is refused."""

from __future__ import annotations

import threading
import weakref
from collections import Counter

from streams.relay.conf import settings
from streams.relay.errors import RelayError

RETRY_AFTER_SECONDS = 5


class Place:
    """One of the places for streams. Given back by release(), or, should nobody call it, when it is forgotten."""

    def __init__(self, key: str) -> None:
        self._release = weakref.finalize(self, _give_back, key)
        self._release.atexit = False

    def release(self) -> None:
        """Give it back. May be called twice."""
        self._release()


# Reentrant: the garbage collector may give a place back in the middle of a line below.
_lock = threading.RLock()
_taken: Counter[str] = Counter()


def take_place(key: str) -> Place:
    """A place for a stream of the caller `key` (Caller.key). Raises RelayError: 429."""
    with _lock:
        most, own = settings.RELAY_MAX_STREAMS, settings.RELAY_MAX_STREAMS_PER_USER
        if _taken[key] >= own:
            raise _too_many(f"You have {own} answers under way (STREAMS['RELAY_MAX_STREAMS_PER_USER']).")
        if _taken.total() >= most:
            raise _too_many(f"This process relays its {most} answers (STREAMS['RELAY_MAX_STREAMS']).")
        _taken[key] += 1
        return Place(key)


def places_taken() -> int:
    """How many there are in this process."""
    return _taken.total()


def _give_back(key: str) -> None:
    with _lock:
        _taken[key] -= 1
        if not _taken[key]:
            del _taken[key]


def _too_many(what: str) -> RelayError:
    return RelayError(
        429, "too-many-streams", f"{what} Try again when one has ended.", retry_after_seconds=RETRY_AFTER_SECONDS
    )
