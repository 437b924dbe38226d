"""Limit how many messages a caller publishes: PUBLISH_MESSAGES_PER_MINUTE.

Each process uses a token bucket, so that a caller can publish the messages of one minute at once, and then at the
limit's rate. If PUBLISH_RATE_CACHE names a cache, all processes use one counter for each caller and minute.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections import OrderedDict
from typing import Any

from django.core.cache import caches

from streams.conf import settings
from streams.runtime import clock, failures
from streams.runtime.resets import on_settings_change, per_process

logger = logging.getLogger("streams")

MINUTE = 60.0

# The number of buckets. The one that was unused for the longest time is dropped first; it is probably full again.
MAX_CALLERS = 10_000

CACHE = per_process(failures.Outage, "The cache that counts publishing works again.")


class Buckets:
    """A token bucket for each caller, in limited memory. All methods can be called from any thread."""

    def __init__(self, max_callers: int = MAX_CALLERS) -> None:
        self._max_callers = max_callers
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # {caller: (messages, time)}
        self._lock = threading.Lock()  # held for moments

    def __len__(self) -> int:
        return len(self._left)

    def take(self, caller: str, messages: int, per_minute: int, now: float) -> float:
        """Take `messages` out of the caller's bucket. Return 0, or the seconds until the bucket has enough."""
        with self._lock:
            left, at = self._left.pop(caller, (float(per_minute), now))
            left = min(per_minute, left + max(0.0, now - at) * per_minute / MINUTE)
            wait = max(0.0, (messages - left) * MINUTE / per_minute)
            self._left[caller] = (left if wait else left - messages, now)
            if len(self._left) > self._max_callers:
                self._left.popitem(last=False)
        return wait

    def clear(self) -> None:
        with self._lock:
            self._left.clear()


_buckets = per_process(Buckets)
on_settings_change(_buckets.clear)


def take(caller: str, messages: int) -> int:
    """Count messages of a caller. Return 0 if they are within the limit, or the seconds until the next try.

    Args:
        caller: a text that identifies a user, a token or an address.
        messages: their number, at most PUBLISH_MESSAGES_PER_MINUTE, because more can never succeed.
    """
    if (per_minute := settings.PUBLISH_MESSAGES_PER_MINUTE) is None:
        return 0
    if settings.PUBLISH_RATE_CACHE is not None:
        key, left = _window(caller)
        try:
            cache = caches[settings.PUBLISH_RATE_CACHE]
            cache.add(key, 0, timeout=2 * MINUTE)
            if not _is_over(cache.incr(key, messages), per_minute):
                return 0
            cache.decr(key, messages)
            return left
        except Exception:
            _report()
    return _take_here(caller, messages, per_minute)


async def atake(caller: str, messages: int) -> int:
    """See take(). It uses no thread."""
    if (per_minute := settings.PUBLISH_MESSAGES_PER_MINUTE) is None:
        return 0
    if settings.PUBLISH_RATE_CACHE is not None:
        key, left = _window(caller)
        try:
            cache = caches[settings.PUBLISH_RATE_CACHE]
            await cache.aadd(key, 0, timeout=2 * MINUTE)
            if not _is_over(await cache.aincr(key, messages), per_minute):
                return 0
            await cache.adecr(key, messages)
            return left
        except Exception:
            _report()
    return _take_here(caller, messages, per_minute)


def _window(caller: str) -> tuple[str, int]:
    """Return the key of the caller's counter for this minute, and the seconds until the minute ends."""
    minute, gone = divmod(clock.time(), MINUTE)
    # A hash, because caches allow different keys, and because an address is private.
    digest = hashlib.sha256(caller.encode(errors="replace")).hexdigest()[:32]
    return f"streams.rate.{digest}.{int(minute)}", math.ceil(MINUTE - gone)


def _is_over(total: Any, per_minute: int) -> bool:
    CACHE.recovered()
    return int(total) > per_minute


def _report() -> None:
    # An inexact limit is better than an error.
    CACHE.record_failure(logger, "PUBLISH_RATE_CACHE does not answer; each process now counts alone.")


def _take_here(caller: str, messages: int, per_minute: int) -> int:
    return math.ceil(_buckets.take(caller, messages, per_minute, time.monotonic() + clock.shift_seconds()))
