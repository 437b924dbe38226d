"""Whether those who read still may: asked again every RECHECK_SECONDS, and at once where something is known to have
changed. One for each hub, on its event loop."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from streams import channels, outages, tokens
from streams.conf import settings
from streams.notifiers import Revocation

if TYPE_CHECKING:
    from streams.subscriber import Subscriber

logger = logging.getLogger("streams")

# Streams that are looked at together. Each takes a thread and a connection for a moment.
AT_ONCE = 4

# What is told is looked at once more after that: a request may have been admitted just before, and its stream not have
# been here yet; and a logout is told just before the session goes.
AGAIN_SECONDS = 2.0

# When the notifier is heard again, nobody knows what it has told meanwhile: all are looked at within that time, by lot.
CATCH_UP_SECONDS = 5.0

# Where it could not be found out. The stream goes on, for an outage of the database is no revocation.
RETRY_SECONDS = 5.0


class Rechecks:
    """Looks after the admissions of one hub's subscribers. All methods are called on its event loop."""

    def __init__(
        self,
        subscribers: Collection[Subscriber],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._subscribers = subscribers
        self._spawn = spawn
        # With the user who is to be ended, where it is not known yet whether it is this stream's.
        self._waiting: deque[tuple[Subscriber, str | None]] = deque()
        self._queued: set[tuple[Subscriber, str | None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._heard_from = float("-inf")  # since when the notifier is heard, in time.monotonic() seconds

    def plan(self, subscriber: Subscriber) -> None:
        """Look at it when its time has come."""
        seconds = settings.RECHECK_SECONDS
        # By lot, so that those who came together are not all looked at together for ever.
        wait = float("inf") if seconds is None else seconds * random.uniform(0.8, 1)  # noqa: S311
        now = time.monotonic()
        if now < self._heard_from + AGAIN_SECONDS:  # admitted before, perhaps, by what this process kept until then
            wait = min(wait, CATCH_UP_SECONDS)
        subscriber.recheck_at = now + wait

    def tick(self) -> None:
        """Look at those whose time has come. To be called about once a second."""
        now = time.monotonic()
        for subscriber in self._subscribers:
            if subscriber.recheck_at <= now:
                self._ask(subscriber)

    def hear(self, revocation: Revocation) -> None:
        """Something has changed. End those whom it concerns, or ask about them; and once more a moment later."""
        self._apply(revocation)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(AGAIN_SECONDS, self._apply, replace(revocation, ends=False))
        self._timers = {timer for timer in self._timers if timer.when() > loop.time()} | {timer}

    def miss(self) -> None:
        """The notifier is heard from now on; what it has told lately, nobody here knows."""
        _forget()
        self._heard_from = time.monotonic()
        for subscriber in self._subscribers:
            soon = self._heard_from + CATCH_UP_SECONDS * random.random()  # noqa: S311
            subscriber.recheck_at = min(subscriber.recheck_at, soon)

    def stop(self) -> None:
        """The hub ends."""
        for task in self._tasks:
            task.cancel()
        for timer in self._timers:
            timer.cancel()
        self._waiting.clear()
        self._queued.clear()

    def _apply(self, revocation: Revocation) -> None:
        _forget()
        for subscriber in tuple(self._subscribers):
            if subscriber.admission is None:
                continue
            concerned = subscriber.admission.is_concerned(revocation)
            if concerned and revocation.ends:
                subscriber.refuse()
            elif concerned is None and revocation.ends:
                self._ask(subscriber, revocation.user)
            elif concerned is not False:
                self._ask(subscriber)

    def _ask(self, subscriber: Subscriber, ended_user: str | None = None) -> None:
        subscriber.recheck_at = float("inf")  # until it is known
        if (job := (subscriber, ended_user)) in self._queued:
            return
        self._queued.add(job)
        self._waiting.append(job)
        if len(self._tasks) < AT_ONCE:
            task = self._spawn(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        while self._waiting:
            subscriber, ended_user = job = self._waiting.popleft()
            # Before it is asked: what changes from here on is asked about again.
            self._queued.discard(job)
            if subscriber in self._subscribers and subscriber.admission is not None:
                try:
                    if await subscriber.admission.holds(ended_user):
                        self.plan(subscriber)
                    else:
                        subscriber.refuse()
                except Exception:
                    outages.report(logger, "Whether a stream may go on could not be found out; it goes on meanwhile.")
                    subscriber.recheck_at = time.monotonic() + RETRY_SECONDS


def _forget() -> None:
    """What this process keeps of the database may be from before."""
    channels.forget_rules()
    tokens.forget_revoked()
