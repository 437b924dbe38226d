"""Count how many of a limited number of slots are taken in this process, by key. The callers enforce the limits."""

from __future__ import annotations

import threading
import weakref
from collections import Counter, deque


class Slot:
    """One slot that is taken. It is released by release(), or when it is garbage-collected."""

    __slots__ = ("__weakref__", "_release")

    def __init__(self, returned: deque[tuple[str, ...]], keys: tuple[str, ...]) -> None:
        # A release is only noted in a deque. The garbage collector can trigger it at any time and in any thread, even
        # during a count, so that it must not wait for the lock or change the counts.
        self._release = weakref.finalize(self, returned.append, keys)
        self._release.atexit = False

    def release(self) -> None:
        """Release the slot. It can be called twice, and from any thread."""
        self._release()


class Slots:
    """The slots that are taken in all threads of this process. A slot can count for several keys.

    No other thread can take a slot within `with slots:`, so that a caller can first check a count:

        with slots:
            if slots.taken("user 1") >= 5:
                raise …
            slot = slots.take("user 1")
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # held only briefly
        self._taken: Counter[str] = Counter()
        self._total = 0
        self._returned: deque[tuple[str, ...]] = deque()

    def __enter__(self) -> Slots:
        self._lock.acquire()
        self._settle()
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def take(self, *keys: str) -> Slot:
        """Take a slot that counts for each of the keys, and return it. Without keys it counts only in total()."""
        with self:
            slot = Slot(self._returned, keys)
            self._taken.update(keys)
            self._total += 1
            return slot

    def taken(self, key: str) -> int:
        """Return the number of slots that count for `key`."""
        with self:
            return self._taken[key]

    def total(self) -> int:
        """Return the number of all slots."""
        with self:
            return self._total

    def counts(self) -> Counter[str]:
        """Return {key: number of slots}."""
        with self:
            return self._taken.copy()

    def _settle(self) -> None:
        while self._returned:
            self._total -= 1
            for key in self._returned.popleft():
                self._taken[key] -= 1
                if not self._taken[key]:
                    del self._taken[key]
