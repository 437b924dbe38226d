"""The low-water mark: ids at or below it are left out of most searches for messages that wait for a position.

While an old snapshot is open in the database (pg_dump, a forgotten psql), PostgreSQL cannot remove index entries of
messages that have got their positions since. The mark skips them. It is only an optimization: a search without it, from
time to time, finds what a transaction that stayed open for longer than the mark's delay has committed.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from streams.runtime.resets import per_process

# An id becomes the mark this long after its message got a position. Transactions that publish usually end sooner.
DELAY_SECONDS = 60.0

# How often a search goes without the mark.
FULL_SEARCH_SECONDS = 60.0

_STEP_SECONDS = 5.0


class LowWater:
    """The low-water mark of one process. All methods can be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: deque[tuple[float, int]] = deque()
        self._mark = 0
        self._epoch = 0
        self._full_search_at = 0.0
        self._wants_full = False

    def mark(self) -> int:
        """Return the id above which to search."""
        with self._lock:
            while self._seen and self._seen[0][0] <= time.monotonic() - DELAY_SECONDS:
                self._mark = self._seen.popleft()[1]
            return self._mark

    def mark_for_poll(self) -> int:
        """Return mark(), or 0 once in FULL_SEARCH_SECONDS. If that finds messages, call want_full_numbering()."""
        now = time.monotonic()
        with self._lock:
            is_due = now - self._full_search_at > FULL_SEARCH_SECONDS
            if is_due:
                self._full_search_at = now
        return 0 if is_due else self.mark()

    def want_full_numbering(self) -> None:
        """Have the next numbering search all ids."""
        self._wants_full = True

    def mark_for_numbering(self) -> int:
        """Return mark(), or 0 if a poll has found messages by a full search."""
        wants_full, self._wants_full = self._wants_full, False
        return 0 if wants_full else self.mark()

    def forget(self) -> None:
        """Search all ids until new ones have been numbered: the log is another copy."""
        with self._lock:
            self._mark = 0
            self._seen.clear()

    def record(self, newest_id: int, epoch: int) -> None:
        """Note that messages up to `newest_id` were searched and got their positions, in this epoch of the log."""
        now = time.monotonic()
        with self._lock:
            if epoch != self._epoch:  # a restored copy of the log gives ids again
                self._epoch, self._mark = epoch, 0
                self._seen.clear()
            if not self._seen or self._seen[-1][0] <= now - _STEP_SECONDS:
                self._seen.append((now, newest_id))


LOW_WATER = per_process(LowWater)
