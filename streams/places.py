"""Places: what a process has a limited number of, counted by who holds them. Who may have one, their users decide."""

from __future__ import annotations

import threading
import weakref
from collections import Counter, deque


class Place:
    """One place. Given back by release(), or, should nobody call it, when it is forgotten."""

    __slots__ = ("__weakref__", "_release")

    def __init__(self, returned: deque[tuple[str, ...]], keys: tuple[str, ...]) -> None:
        # Giving back only notes it down: the garbage collector may do it at any moment and in any thread, also in the
        # middle of a count, and must neither wait for a lock nor change what is being counted.
        self._release = weakref.finalize(self, returned.append, keys)
        self._release.atexit = False

    def release(self) -> None:
        """Give it back. May be called twice, and from any thread."""
        self._release()


class Places:
    """The places that are taken, in all threads of this process, by key; a place may count under several keys.

    Within `with places:` nobody else takes one, so that whoever looks at the counts may take one by what it sees:

        with places:
            if places.taken("user 1") >= 5:
                raise …
            place = places.take("user 1")
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # held for moments
        self._taken: Counter[str] = Counter()
        self._total = 0
        self._returned: deque[tuple[str, ...]] = deque()

    def __enter__(self) -> Places:
        self._lock.acquire()
        self._settle()
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def take(self, *keys: str) -> Place:
        """A place that counts under each of the keys, which may be none."""
        with self:
            place = Place(self._returned, keys)
            self._taken.update(keys)
            self._total += 1
            return place

    def taken(self, key: str) -> int:
        """How many count under `key`."""
        with self:
            return self._taken[key]

    def total(self) -> int:
        """How many there are, each counted once."""
        with self:
            return self._total

    def counts(self) -> Counter[str]:
        """{key: places} at this moment."""
        with self:
            return self._taken.copy()

    def _settle(self) -> None:
        while self._returned:
            self._total -= 1
            for key in self._returned.popleft():
                self._taken[key] -= 1
                if not self._taken[key]:
                    del self._taken[key]
