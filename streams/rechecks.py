"""Whether those who read still may: asked again every RECHECK_SECONDS, and at once where something is known to have
changed. One for each hub, on its event loop."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Coroutine, Hashable, Iterable
from dataclasses import replace
from itertools import takewhile
from typing import Any

from django.db import Error

from streams import channels, outages, tokens
from streams.admission import as_in_a_request, hold
from streams.conf import settings
from streams.delivery.listener import Listener
from streams.notifiers import Revocation

logger = logging.getLogger("streams")

# Workers that ask at the same time. Each has a thread and a connection for a moment, for so many streams at the most.
AT_ONCE = 4
BATCH = 100

# Streams of one session that are judged by one decision. (The rest of a larger number are judged by the next one.)
TOGETHER = 1000

# What comes within that time is applied together: a site may save a user with every request, and each time all streams
# have to be looked through.
GATHER_SECONDS = 0.1

# What is told is looked at once more after that: a logout is told just before the session goes.
AGAIN_SECONDS = 2.0

# When the notifier is heard again, nobody knows what it has told meanwhile: all are looked at within that time, by lot.
CATCH_UP_SECONDS = 5.0

# Where it could not be found out. The stream goes on, for an outage is no revocation.
RETRY_SECONDS = 5.0

# How long one policy may take before that is one.
PATIENCE_SECONDS = 30.0

# Revocations that are remembered, for streams that were on their way when they were told.
MAX_RECENT = 1000

Job = tuple[Listener, str | None]


class Rechecks:
    """Looks after the admissions of one hub's subscribers. All methods are called on its event loop."""

    def __init__(
        self,
        subscribers: Collection[Listener],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._subscribers = subscribers
        self._spawn = spawn
        # Each with the user who is to be ended, where it is not known yet whether it is this stream's. What concerns a
        # few goes first: behind all of a site's streams they would wait too long.
        self._urgent: deque[Job] = deque()
        self._waiting: deque[Job] = deque()
        self._queued: dict[Job, bool] = {}  # whether it is urgent
        # Streams about which one decision is right, by Admission.shared_by(), in the order of joining.
        self._sharing: dict[Hashable, dict[Listener, None]] = {}
        self._workers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard: list[Revocation] = []
        self._timers: set[asyncio.TimerHandle] = set()
        self._recent: deque[tuple[float, Revocation]] = deque(maxlen=MAX_RECENT)
        self._deaf_until = float("inf")  # since when the notifier is heard, in time.monotonic() seconds

    def plan(self, subscriber: Listener) -> None:
        """Look at it when its time has come; soon, where something was told while the policy was being asked."""
        if (admission := subscriber.admission) is None:
            return
        if admission.shared_key is None and (key := admission.shared_by()) is not None:
            admission.shared_key = key
            self._sharing.setdefault(key, {})[subscriber] = None
        now, seconds = time.monotonic(), settings.RECHECK_SECONDS
        # By lot, so that those who came together are not all looked at together for ever.
        wait = float("inf") if seconds is None else seconds * random.uniform(0.8, 1)  # noqa: S311
        # From the newest back: mostly there is none, and each stream that opens comes by here.
        since = takewhile(lambda each: each[0] >= admission.decided_at, reversed(self._recent))
        recent = [told for _, told in since]
        is_concerned = any(admission.is_concerned(told) is not False for told in recent)
        if is_concerned or len(recent) == MAX_RECENT or admission.decided_at < self._deaf_until < float("inf"):
            wait = 0.0
        subscriber.recheck_at = now + wait

    def forget(self, subscriber: Listener) -> None:
        """The stream has ended. May be called twice."""
        key = None if subscriber.admission is None else subscriber.admission.shared_key
        if (sharing := self._sharing.get(key)) is not None:
            sharing.pop(subscriber, None)
            if not sharing:
                del self._sharing[key]

    def tick(self) -> None:
        """Look at those whose time has come. To be called about once a second."""
        now = time.monotonic()
        for subscriber in self._subscribers:
            if subscriber.recheck_at <= now:
                self._ask(subscriber)

    def hear(self, revocation: Revocation) -> None:
        """Something has changed. End those whom it concerns, or ask about them; and once more a moment later."""
        # Before anybody else is judged: what this process keeps of the database may be from before.
        _forget(revocation)
        self._recent.append((time.monotonic(), revocation))
        self._heard.append(revocation)
        if len(self._heard) == 1:
            self._later(GATHER_SECONDS, self._apply_heard)

    def miss(self) -> None:
        """The notifier is heard from now on; what it has told lately, nobody here knows."""
        _forget(Revocation())
        self._deaf_until = time.monotonic()
        for subscriber in self._subscribers:
            soon = self._deaf_until + CATCH_UP_SECONDS * random.random()  # noqa: S311
            subscriber.recheck_at = min(subscriber.recheck_at, soon)

    def stop(self) -> None:
        """The hub ends."""
        for task in self._tasks:
            task.cancel()
        for timer in self._timers:
            timer.cancel()
        self._urgent.clear()
        self._waiting.clear()
        self._queued.clear()
        self._heard.clear()

    def _later(self, seconds: float, what: Callable[..., None], *args: Any) -> None:
        loop = asyncio.get_running_loop()
        self._timers = {timer for timer in self._timers if timer.when() > loop.time()}
        self._timers.add(loop.call_later(seconds, what, *args))

    def _apply_heard(self) -> None:
        heard, self._heard = list(dict.fromkeys(self._heard)), []
        self._apply(heard)
        self._later(AGAIN_SECONDS, self._apply, [replace(each, ends=False) for each in heard])

    def _apply(self, revocations: Iterable[Revocation]) -> None:
        """Look through the streams once, whatever number of revocations there is."""
        of_user: defaultdict[str | None, list[Revocation]] = defaultdict(list)
        of_any: list[Revocation] = []
        for each in revocations:
            (of_any if each.user is None or each.ends else of_user[each.user]).append(each)
        for subscriber in tuple(self._subscribers):
            if (admission := subscriber.admission) is not None:
                told = of_any
                if of_user:
                    told = [*of_any, *of_user.get(admission.user, ()), *of_user.get(admission.session_user, ())]
                for each in told:
                    self._apply_to(subscriber, each)

    def _apply_to(self, subscriber: Listener, revocation: Revocation) -> None:
        assert subscriber.admission is not None
        concerned = subscriber.admission.is_concerned(revocation)
        if concerned and revocation.ends:
            subscriber.revoke()
        elif concerned is None:
            self._ask(subscriber, revocation.user, is_urgent=True)
        elif concerned:
            self._ask(subscriber, is_urgent=revocation != Revocation())

    def _ask(self, subscriber: Listener, ended_user: str | None = None, *, is_urgent: bool = False) -> None:
        subscriber.recheck_at = float("inf")  # until it is known
        job = (subscriber, ended_user)
        if job not in self._queued or (is_urgent and not self._queued[job]):
            self._queued[job] = is_urgent
            (self._urgent if is_urgent else self._waiting).append(job)
        if self._workers < AT_ONCE:
            self._workers += 1
            task = self._spawn(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        try:
            while self._urgent or self._waiting:
                async with as_in_a_request() as abandon:
                    for _ in range(BATCH):
                        if not (jobs := self._urgent or self._waiting):
                            break
                        if not await self._do(jobs.popleft()):
                            abandon()
                            break
        finally:
            self._workers -= 1

    async def _do(self, job: Job) -> bool:
        """Ask about one stream, and those that share the answer. False where the thread may still be busy with it, or
        its connection broken."""
        # Before it is asked: what changes from here on is asked about again. What became urgent was done before.
        if self._queued.pop(job, None) is None or job[0] not in self._subscribers:
            return True
        jobs = self._with_sharing(job)
        asked = [(subscriber.admission, ended_user) for subscriber, ended_user in jobs if subscriber.admission]
        if not asked:
            return True
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                holding = await hold(asked)
        except (Error, OSError):  # of the database, or of whatever else a policy asks
            outages.report(logger, "Whether a stream may go on could not be found out; it goes on meanwhile.")
            for subscriber, _ in jobs:
                subscriber.recheck_at = time.monotonic() + RETRY_SECONDS
            return False
        except (Exception, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # (Nobody has cancelled this task: the policy awaited something that somebody else had cancelled.)
            # A new request would not be admitted by it either.
            logger.exception("The policy failed when it was asked again about a stream, which ends.")
            holding = [False] * len(jobs)
        for (subscriber, _), holds in zip(jobs, holding, strict=True):
            if subscriber not in self._subscribers or subscriber.admission is None:
                continue  # it has ended since
            if holds:
                subscriber.admission.decided_at = asked_at
                self.plan(subscriber)
            else:
                subscriber.revoke()
        return True

    def _with_sharing(self, job: Job) -> list[Job]:
        """Return the job, and one for each other stream about which the same decision is right, due or not."""
        subscriber, ended_user = job
        key = None if subscriber.admission is None else subscriber.admission.shared_by()
        jobs = [job]
        for other in self._sharing.get(key, ()):
            if len(jobs) == TOGETHER:
                break
            # (The key once more: a view may have put another user into its request since.)
            if other is subscriber or other.admission is None or other.admission.shared_by() != key:
                continue
            other.recheck_at = float("inf")  # until it is known
            was_meant = self._queued.pop((other, ended_user), None) is not None
            self._queued.pop((other, None), None)
            jobs.append((other, ended_user if was_meant else None))
        return jobs


def _forget(revocation: Revocation) -> None:
    """Ask the database again for what a change may have made old."""
    if revocation.user is None and revocation.session is None:
        channels.forget_rules()
        tokens.forget_revoked()
