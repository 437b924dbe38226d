"""Signals about streams: sent in order, and away from the event loop, because receivers can be slow."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary

from django.dispatch import Signal

from streams.delivery.listener import Listener
from streams.presence import counter
from streams.runtime import executor
from streams.runtime.tasks import spawn
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams.hub")

# How many signals can wait for slow receivers. They hold their requests, so that their number is bounded.
MAX_WAITING_SIGNALS = 1000


def announce(signal: Signal, subscriber: Listener) -> None:
    """Send a signal about a stream soon, after those that wait already, and away from the event loop."""
    if not signal.has_listeners(type(subscriber)):
        return
    send = partial(
        signal.send_robust,
        type(subscriber),
        channels=subscriber.channels,
        request=subscriber.request,
        connections=counter.connections(),  # the number alone: to copy all counts at every connect would be costly
    )
    _announcers.setdefault(asyncio.get_running_loop(), _Announcer()).announce(send)


@dataclass(eq=False)
class _Announcer:
    """Sends the signals of one event loop, one after the other. It outlives the hub, whose last stream ends as well."""

    _waiting: deque[Callable[[], object]] = field(default_factory=deque)
    _is_dropping: bool = False
    _task: asyncio.Task[None] | None = None

    def announce(self, send: Callable[[], object]) -> None:
        if len(self._waiting) >= MAX_WAITING_SIGNALS:
            if not self._is_dropping:
                logger.warning(
                    "The receivers of subscriber_connected and subscriber_disconnected are too slow: %d signals wait, "
                    "and more are dropped. Have a receiver hand its work on, and do it elsewhere.",
                    MAX_WAITING_SIGNALS,
                    extra=fields(event="signals-dropped"),
                )
            self._is_dropping = True
            return
        self._is_dropping = False
        self._waiting.append(send)
        if self._task is None or self._task.done():  # done: cancelled
            self._task = spawn(self._send())

    async def _send(self) -> None:
        while self._waiting:
            try:
                await executor.run(self._waiting.popleft(), pool=executor.WAITING)
            except Exception:
                logger.exception("A signal could not be sent.")
        self._task = None  # it knows its loop, and would keep it


_announcers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Announcer] = WeakKeyDictionary()
