"""The hub: it follows the log's tail once, for all open streams of an event loop. This module starts and stops it.

`delivery/follower.py` delivers the messages; each stream's own state is in delivery/subscriber.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from weakref import WeakKeyDictionary

from streams import log
from streams.conf import settings
from streams.delivery.announcer import announce
from streams.delivery.follower import Follower
from streams.delivery.listener import Listener
from streams.delivery.reads import Reads
from streams.http import shutdown
from streams.presence import counter, node_row
from streams.runtime import executor, failures, tasks, test_run
from streams.runtime.failures import Backoff
from streams.runtime.tasks import PeriodicTask, spawn
from streams.signals import subscriber_connected, subscriber_disconnected
from streams.telemetry import recorder

logger = logging.getLogger("streams.hub")

# How often quiet streams are looked for. A heartbeat is late by at most this much.
TICK_SECONDS = 1.0

# How often the setting of a task that is switched off is read again.
IDLE_TASK_SECONDS = 60.0

# How long a hub goes on after its last subscriber has left. Without this, a single visitor who goes from page to page
# would wait at each page until a new hub has started.
LINGER_SECONDS = 15.0


class Hub(Follower):
    """Follows the log for one event loop. Started by its first subscriber, stopped soon after its last one has left.

    All methods are called on that loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads = Reads()
        self._tasks: list[asyncio.Task[None]] = []
        self._periodic_tasks: list[asyncio.Task[None]] = []
        self._lingering: asyncio.TimerHandle | None = None  # until it stops; without subscribers only

    @staticmethod
    def running() -> Hub | None:
        """Return the hub of the running event loop, if it has one."""
        return _hubs.get(asyncio.get_running_loop())

    @staticmethod
    async def join(subscriber: Listener) -> Hub:
        """Add a subscriber to the running loop's hub, which is started if it is not. The stream is not live yet."""
        executor.sync_caller()  # if a sync thread waits for this loop, the hub may need it: let it know how to reach it
        loop = asyncio.get_running_loop()
        hub = _hubs.get(loop)
        if hub is None:
            hub = _hubs[loop] = Hub()
        lingers = hub._resume()
        hub.subscribers.add(subscriber)
        hub._rechecks.schedule(subscriber)
        if subscriber.is_counted:
            hub._counter.add(subscriber.channels)
        follows = hub._started is not None and hub._started.done()
        if hub._started is None:
            hub._started = spawn(hub._start(), awaited=True)
        try:
            await asyncio.shield(hub._started)
            if lingers:
                await hub.catch_up()  # as a new hub reads the head; it fails as a new one does
            if follows and not test_run.strategy().starts_new_epochs:
                await hub._begin_again()
        except BaseException:
            hub.leave(subscriber)
            raise
        if subscriber.is_counted:
            subscriber.announced = True
            announce(subscriber_connected, subscriber)
        return hub

    def leave(self, subscriber: Listener) -> None:
        """Remove a subscriber. The hub stops soon after the last one has left. Can be called twice."""
        self.detach(subscriber)
        if subscriber in self.subscribers:
            self.subscribers.remove(subscriber)
            if subscriber.is_counted:
                self._counter.remove(subscriber.channels)
            self._rechecks.forget(subscriber)
            if subscriber.announced:
                announce(subscriber_disconnected, subscriber)
        if not self.subscribers and self._lingering is None:
            self._linger()

    # --- Starting and stopping ---

    async def _start(self) -> None:
        # It listens before the head is read, so that no notice is missed in between. The pause lets it begin.
        self._tasks.append(spawn(self._listen()))
        await asyncio.sleep(0)
        self._news.clear()  # the head includes all positions up to now
        try:
            await executor.run(log.identify, pool=executor.FOLLOWING)
            self.epochs, newest = await executor.run(log.opening, pool=executor.FOLLOWING)
            await self._begin_at(newest)
        except BaseException:
            self._stop()
            raise
        failures.DATABASE.recovered()
        self._tasks += [spawn(self._poll()), spawn(self._tick()), spawn(self._cohorts.run())]
        self._begin_periodic_tasks()

    def _begin_periodic_tasks(self) -> None:
        self._periodic_tasks = [spawn(self._do(task)) for task in tasks.registered()]

    def _linger(self) -> None:
        """Follow the log for a while without subscribers. The counts of connections are as if the hub had stopped.

        In a test run it stops at once, because the hub must not outlive the test.
        """
        loop = asyncio.get_running_loop()
        follows = _hubs.get(loop) is self and self._started is not None and self._started.done()
        if not follows or shutdown.is_ending() or not test_run.strategy().works_unattended:
            self._stop()
            return
        self._stop_periodic_tasks()
        node_row.close_counter(self._counter)
        self._lingering = loop.call_later(LINGER_SECONDS, self._stop)

    def _resume(self) -> bool:
        """Go on with subscribers. Return True if the hub was lingering without any."""
        if self._lingering is None:
            return False
        self._lingering.cancel()
        self._lingering = None
        before = self._counter
        self._counter = counter.open_counter(asyncio.get_running_loop(), self.subscribers)
        self._counter.head, self._counter.notifier_problem = before.head, before.notifier_problem
        self._begin_periodic_tasks()
        return True

    def _stop_periodic_tasks(self) -> None:
        for task in self._periodic_tasks:
            task.cancel()
        self._periodic_tasks.clear()

    def _stop(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
        if _hubs.get(loop := asyncio.get_running_loop()) is self:
            del _hubs[loop]
        if self._started is not None and self._started is not asyncio.current_task():
            self._started.cancel()
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self._stop_periodic_tasks()
        self._rechecks.stop()
        node_row.close_counter(self._counter)
        if not counter.counters():
            recorder.current.notifier_state("idle")

    async def _poll(self) -> None:
        backoff = Backoff(logger, "The log could not be read; trying again.")
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(settings.POLL_SECONDS):
                        await self._news.wait()
                self._news.clear()
                try:
                    await self.catch_up()
                    backoff.reset()
                    failures.DATABASE.recovered()  # also if another part of the process found the outage
                except Exception:
                    if not self.subscribers:
                        return self._stop()  # the next client needs a hub that can read the log
                    await backoff.wait()
        except asyncio.CancelledError:
            self._stop()  # now, because the loop is ending
            raise
        finally:
            # Cancelled with subscribers left: the loop is ending, and no other code closes them.
            for subscriber in tuple(self.subscribers):
                await subscriber.aclose()

    # --- Timers ---

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(min(TICK_SECONDS, settings.HEARTBEAT_SECONDS / 2))
            quiet_since = time.monotonic() - settings.HEARTBEAT_SECONDS
            for subscriber in self.subscribers:
                subscriber.beat(quiet_since)
            self._rechecks.tick()

    async def _do(self, task: PeriodicTask) -> None:
        backoff = Backoff(logger, f"{task.name} failed; trying again.")
        now = task.at_start
        while True:
            seconds = None
            try:
                seconds = task.seconds()
                if now and seconds is not None:
                    await task.run()
                    backoff.reset()
            except Exception:
                await backoff.wait()
            now = True
            await asyncio.sleep(IDLE_TASK_SECONDS if seconds is None else seconds)


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()
