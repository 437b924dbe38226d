"""Check again whether open streams are authorized: every RECHECK_SECONDS, and at once after a relevant change.

Each hub has one Rechecks, on its event loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import replace
from itertools import chain, islice, takewhile
from typing import Any

from django.db import Error

from streams import tokens
from streams.access.admission import are_still_authorized, request_context
from streams.channels import rules
from streams.conf import settings
from streams.delivery.listener import Listener
from streams.notifiers import Revocation
from streams.runtime import failures
from streams.runtime.tasks import spawn
from streams.telemetry.log_fields import fields

logger = logging.getLogger("streams")

# The number of workers that run at the same time. Each uses a thread and a connection, which it gives back after a
# batch of so many streams.
MAX_WORKERS = 4
BATCH = 100

# At most so many streams of one session are covered by one decision. The next decision covers the others.
MAX_SHARING = 1000

# Revocations that arrive within this time are applied together, because each one has to look at all streams: a site
# can save a user with every request.
GATHER_SECONDS = 0.1

# Each revocation is applied a second time after this time: at a logout it is sent just before the session is deleted.
REPEAT_SECONDS = 2.0

# After the notifier was unreachable, revocations can be missing. All streams are checked within this time, at random.
CATCH_UP_SECONDS = 5.0

# If a check fails, it is repeated after this time. The stream stays open: an outage revokes nothing.
RETRY_SECONDS = 5.0

# A policy that takes longer than this for one check has failed.
POLICY_TIMEOUT_SECONDS = 30.0

# The number of revocations that are remembered, for streams that were being opened when they arrived.
MAX_RECENT = 1000

# A stream, and the user whose streams end, if the stream's own user is not known yet.
Job = tuple[Listener, str | None]


class Rechecks:
    """Checks the admissions of one hub's subscribers. Call all methods on the hub's event loop."""

    def __init__(self, subscribers: Collection[Listener]) -> None:
        self._subscribers = subscribers
        # A job is in one of these queues. Urgent jobs concern few streams and go first, so that they do not wait behind
        # all streams of the site.
        self._urgent: OrderedDict[Job, None] = OrderedDict()
        self._waiting: OrderedDict[Job, None] = OrderedDict()
        # Streams that one decision can cover, by Admission.sharing_key(), in the order in which they were opened.
        self._sharing: dict[Hashable, dict[Listener, None]] = {}
        self._workers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathered: list[Revocation] = []
        self._timers: set[asyncio.TimerHandle] = set()
        self._recent: deque[tuple[float, Revocation]] = deque(maxlen=MAX_RECENT)
        self._listening_since = float("inf")  # in time.monotonic() seconds

    def schedule(self, subscriber: Listener) -> None:
        """Set the time of the stream's next check: now if a relevant change arrived since its policy was called."""
        if (admission := subscriber.admission) is None:
            return
        if admission.shared_key is None and (key := admission.sharing_key()) is not None:
            admission.shared_key = key
            self._sharing.setdefault(key, {})[subscriber] = None
        now, seconds = time.monotonic(), settings.RECHECK_SECONDS
        # With jitter, so that streams that were opened together are not always checked together.
        delay = float("inf") if seconds is None else seconds * random.uniform(0.8, 1)  # noqa: S311
        # Newest first: this runs for each new stream, and usually there is none.
        newer = takewhile(lambda each: each[0] >= admission.decided_at, reversed(self._recent))
        revocations = [revocation for _, revocation in newer]
        is_concerned = any(admission.matches(revocation) is not False for revocation in revocations)
        can_have_missed = len(revocations) == MAX_RECENT or admission.decided_at < self._listening_since < float("inf")
        subscriber.recheck_at = now if is_concerned or can_have_missed else now + delay

    def forget(self, subscriber: Listener) -> None:
        """Remove a stream that has ended. It can be called twice."""
        key = None if subscriber.admission is None else subscriber.admission.shared_key
        if (sharing := self._sharing.get(key)) is not None:
            sharing.pop(subscriber, None)
            if not sharing:
                del self._sharing[key]

    def tick(self) -> None:
        """Start the checks that are due. Call it about once a second."""
        now = time.monotonic()
        for subscriber in self._subscribers:
            if subscriber.recheck_at <= now:
                self._enqueue(subscriber)

    def on_revocation(self, revocation: Revocation) -> None:
        """End the streams that a revocation concerns, or check them; and do so once more a moment later."""
        # This comes first, because cached rules and tokens can be older than the change.
        _clear_caches(revocation)
        self._recent.append((time.monotonic(), revocation))
        self._gathered.append(revocation)
        if len(self._gathered) == 1:
            self._call_later(GATHER_SECONDS, self._apply_gathered)

    def on_listener_restored(self) -> None:
        """Check all streams soon: the notifier delivers again, but revocations can have been lost."""
        _clear_caches(Revocation())
        self._listening_since = time.monotonic()
        for subscriber in self._subscribers:
            soon = self._listening_since + CATCH_UP_SECONDS * random.random()  # noqa: S311
            subscriber.recheck_at = min(subscriber.recheck_at, soon)

    def stop(self) -> None:
        """Cancel all checks, because the hub ends."""
        for task in self._tasks:
            task.cancel()
        for timer in self._timers:
            timer.cancel()

    def _call_later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        loop = asyncio.get_running_loop()
        self._timers = {timer for timer in self._timers if timer.when() > loop.time()}
        self._timers.add(loop.call_later(seconds, function, *args))

    def _apply_gathered(self) -> None:
        gathered, self._gathered = list(dict.fromkeys(self._gathered)), []
        self._apply(gathered)
        self._call_later(REPEAT_SECONDS, self._apply, [replace(each, ends=False) for each in gathered])

    def _apply(self, revocations: Iterable[Revocation]) -> None:
        """Apply all of the revocations in one pass over the streams."""
        by_user: defaultdict[str | None, list[Revocation]] = defaultdict(list)
        others: list[Revocation] = []
        for each in revocations:
            (others if each.user is None or each.ends else by_user[each.user]).append(each)
        for subscriber in tuple(self._subscribers):
            if (admission := subscriber.admission) is not None:
                users = {admission.user, admission.session_user} if by_user else ()
                for each in chain(others, *(by_user.get(user, ()) for user in users)):
                    matches = admission.matches(each)
                    if matches and each.ends:
                        subscriber.revoke()
                    elif matches is None:
                        self._enqueue(subscriber, each.user, is_urgent=True)
                    elif matches:
                        self._enqueue(subscriber, is_urgent=each != Revocation())

    def _enqueue(self, subscriber: Listener, ended_user: str | None = None, *, is_urgent: bool = False) -> None:
        subscriber.recheck_at = float("inf")  # until the check is done
        job = (subscriber, ended_user)
        if is_urgent:
            self._waiting.pop(job, None)
            self._urgent.setdefault(job)
        elif job not in self._urgent:
            self._waiting.setdefault(job)
        if self._workers < MAX_WORKERS:
            self._workers += 1
            task = spawn(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        try:
            while self._urgent or self._waiting:
                async with request_context() as abandon:
                    for _ in range(BATCH):
                        if not (jobs := self._urgent or self._waiting):
                            break
                        # It leaves the queue before the policy is called, so that a later change puts it there again.
                        job, _ = jobs.popitem(last=False)
                        if not await self._check(job):
                            abandon()
                            break
        finally:
            self._workers -= 1

    async def _check(self, job: Job) -> bool:
        """Check one stream, and those that share its decision.

        Return False if the thread can still be blocked by the policy, or if its connection can be broken.
        """
        if job[0] not in self._subscribers:
            return True
        jobs = self._with_sharing(job)
        streams = [(subscriber.admission, ended_user) for subscriber, ended_user in jobs if subscriber.admission]
        if not streams:
            return True
        began_at = time.monotonic()
        try:
            async with asyncio.timeout(POLICY_TIMEOUT_SECONDS):
                authorized = await are_still_authorized(streams)
        except (Error, OSError):  # from the database, or from another service that the policy uses
            failures.report(
                logger, "Could not check whether an open stream is still authorized. It stays open for now."
            )
            for subscriber, _ in jobs:
                subscriber.recheck_at = time.monotonic() + RETRY_SECONDS
            return False
        except (Exception, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # This also handles a CancelledError of something that the policy awaited. As for a new request, an error
            # of the policy allows nothing.
            extra = fields(event="policy-failed", channels=[*job[0].channels])
            logger.exception("The policy failed while an open stream was checked. The stream ends.", extra=extra)
            authorized = [False] * len(jobs)
        for (subscriber, _), is_authorized in zip(jobs, authorized, strict=True):
            if subscriber not in self._subscribers or subscriber.admission is None:
                continue  # it has ended in the meantime
            if is_authorized:
                subscriber.admission.decided_at = began_at
                self.schedule(subscriber)
            else:
                subscriber.revoke()
        return True

    def _with_sharing(self, job: Job) -> list[Job]:
        """Return the job, and one for each other stream that the same decision covers, due or not.

        If there are more than MAX_SHARING, those that were covered longest ago come first. Otherwise the same streams
        would be covered again for each of the others.
        """
        subscriber, ended_user = job
        key = None if subscriber.admission is None else subscriber.admission.sharing_key()
        jobs = [job]
        sharing = self._sharing.get(key, {})
        others = [each for each in islice(sharing, MAX_SHARING) if each is not subscriber][: MAX_SHARING - 1]
        for covered in (*others, subscriber):
            if covered in sharing:
                sharing[covered] = sharing.pop(covered)  # now the last one
        for other in others:
            # The key is computed again, because a view can have replaced its request's user.
            if other.admission is None or other.admission.sharing_key() != key:
                continue
            other.recheck_at = float("inf")  # until the check is done
            was_queued = self._dequeue((other, ended_user))
            self._dequeue((other, None))
            jobs.append((other, ended_user if was_queued else None))
        return jobs

    def _dequeue(self, job: Job) -> bool:
        """Remove a job from its queue. Return False if it was in none."""
        for queue in (self._urgent, self._waiting):
            if job in queue:
                del queue[job]
                return True
        return False


def _clear_caches(revocation: Revocation) -> None:
    """Clear the cached access rules and tokens, unless the change concerns only a user or a session."""
    if revocation.user is None and revocation.session is None:
        rules.forget_rules()
        tokens.forget_revoked()
