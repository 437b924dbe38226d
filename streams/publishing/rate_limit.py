"""How much a caller may publish: PUBLISH_MESSAGES_PER_MINUTE, counted in messages.

In this process by a token bucket: whoever was quiet may publish a minute's worth at once, and goes on at the rate.
Over all processes, where PUBLISH_RATE_CACHE names a cache, by one counter for each caller and minute.
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
from streams.runtime import failures
from streams.runtime.resets import on_settings_change, per_process

logger = logging.getLogger("streams")

MINUTE = 60.0

# Callers that are remembered. Whoever has been quiet longest goes first, and has most likely a full bucket again.
MAX_CALLERS = 10_000

CACHE = per_process(failures.Outage, "The cache that counts publishing works again.")


class Buckets:
    """A token bucket for each caller, in bounded memory. From any thread."""

    def __init__(self, most_callers: int = MAX_CALLERS) -> None:
        self._most_callers = most_callers
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # messages, and when that was so
        self._lock = threading.Lock()  # held for moments

    def __len__(self) -> int:
        return len(self._left)

    def take(self, caller: str, messages: int, per_minute: int, now: float) -> float:
        """Take `messages` out of the caller's bucket. Returns 0, or the seconds until there will be as many."""
        with self._lock:
            left, at = self._left.pop(caller, (float(per_minute), now))
            left = min(per_minute, left + (now - at) * per_minute / MINUTE)
            wait = max(0.0, (messages - left) * MINUTE / per_minute)
            self._left[caller] = (left if wait else left - messages, now)
            if len(self._left) > self._most_callers:
                self._left.popitem(last=False)
        return wait

    def clear(self) -> None:
        with self._lock:
            self._left.clear()


_buckets = per_process(Buckets)
on_settings_change(_buckets.clear)


def take(caller: str, messages: int) -> int:
    """Count `messages` for `caller`. Returns 0 where they may be published, else in how many seconds to try again.

    Args:
        caller: who publishes, as a text: a user, a token, an address.
        messages: how many; at most PUBLISH_MESSAGES_PER_MINUTE, for more never fit.
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
    """See take(). Without a thread where no cache counts."""
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
    """The key of the caller's counter for this minute, and the seconds that are left of it."""
    minute, gone = divmod(time.time(), MINUTE)
    # Hashed: caches differ in what their keys may be, and an address is nobody else's business.
    digest = hashlib.sha256(caller.encode(errors="replace")).hexdigest()[:32]
    return f"streams.rate.{digest}.{int(minute)}", math.ceil(MINUTE - gone)


def _is_over(total: Any, per_minute: int) -> bool:
    CACHE.recovered()
    return int(total) > per_minute


def _report() -> None:
    # Better counted less well than not published.
    CACHE.record_failure(logger, "PUBLISH_RATE_CACHE does not answer; each process counts for itself.")


def _take_here(caller: str, messages: int, per_minute: int) -> int:
    return math.ceil(_buckets.take(caller, messages, per_minute, time.monotonic()))
