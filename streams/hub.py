"""The hub: one for each event loop. It follows the log's tail once, for all subscribers of the loop.

It owns the loop's position in the log, the window of the newest encoded messages, and who listens to which channel.
What a single client has had, and what it gets next, is subscriber.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from streams import log, outages, presence, shutdown, threads
from streams.announcer import announce
from streams.conf import settings
from streams.events import StoredEvent
from streams.forks import REASON, Marks, contradicts, find_fork
from streams.notifiers import Notice, get_notifier
from streams.outages import Backoff
from streams.reads import Reads
from streams.rechecks import Rechecks
from streams.runtime import tasks, test_run
from streams.runtime.tasks import PeriodicTask, spawn
from streams.signals import subscriber_connected, subscriber_disconnected
from streams.window import Frame, Window

if TYPE_CHECKING:
    from streams.subscriber import Subscriber

logger = logging.getLogger("streams.hub")

# How often quiet streams are looked for. A heartbeat is late by at most this much.
TICK_SECONDS = 1.0

# How long messages are applied before the event loop gets a turn: a batch can hold tens of thousands.
SLICE_SECONDS = 0.005

# How often a chore that is switched off is looked at again.
IDLE_CHORE_SECONDS = 60.0

# For how long a hub goes on after its last subscriber has left. Otherwise a lone visitor who goes from page to page
# would wait at each page until a new hub has started.
LINGER_SECONDS = 15.0


class Hub:
    """Follows the log for one event loop. Started by its first subscriber, stopped soon after its last one has left.

    All methods are called on that loop. Nothing between two `await`s can be interrupted, and that is what makes the
    join exact: whoever finds its cursor at `position` and calls `admit` without an `await` in between misses nothing
    and gets nothing twice.
    """

    def __init__(self) -> None:
        self.position = 0
        self.window = Window(0, max_messages=1, max_bytes=1)
        self.epochs = log.Epochs()
        self.subscribers: set[Subscriber] = set()
        # In the order of joining, which is about the order in memory: a set's order costs every delivery cache misses.
        self._live: defaultdict[str, dict[Subscriber, None]] = defaultdict(dict)
        self.reads = Reads()
        self._reads_begun = 0
        self._reads_ended = 0  # the number of the newest that ended well
        self._tasks: list[asyncio.Task[None]] = []
        self._chores: list[asyncio.Task[None]] = []
        self._started: asyncio.Task[None] | None = None
        self._lingering: asyncio.TimerHandle | None = None  # until it stops; without subscribers only
        self._news = asyncio.Event()
        self._reading = asyncio.Lock()
        self._marks = Marks()
        self._is_doubtful = False  # a notice contradicts the window: no notice is applied before the next look
        self._census = presence.open_census(asyncio.get_running_loop(), self.subscribers)
        self._rechecks = Rechecks(self.subscribers, spawn)

    @staticmethod
    def running() -> Hub | None:
        """The hub of the running loop, if it has one."""
        return _hubs.get(asyncio.get_running_loop())

    @staticmethod
    async def join(subscriber: Subscriber) -> Hub:
        """Add a subscriber to the running loop's hub, which is started where it is not. It is not live yet."""
        threads.sync_caller()  # where one waits for us, the hub may need that thread: let it know the way to it
        loop = asyncio.get_running_loop()
        hub = _hubs.get(loop)
        if hub is None:
            hub = _hubs[loop] = Hub()
        lingers = hub._resume()
        hub.subscribers.add(subscriber)
        hub._rechecks.plan(subscriber)
        hub._census.add(subscriber.channels)
        follows = hub._started is not None and hub._started.done()
        if hub._started is None:
            hub._started = spawn(hub._start(), awaited=True)
        try:
            await asyncio.shield(hub._started)
            if lingers:
                await hub.catch_up()  # as a new hub would read the head; and it fails as one would
            if follows and not test_run.strategy().starts_new_epochs:
                await hub._begin_again()
        except BaseException:
            hub.leave(subscriber)
            raise
        subscriber.announced = True
        announce(subscriber_connected, subscriber)
        return hub

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a subscriber; after the last one the hub stops soon. May be called twice."""
        self.demote(subscriber)
        if subscriber in self.subscribers:
            self.subscribers.remove(subscriber)
            self._census.remove(subscriber.channels)
            self._rechecks.forget(subscriber)
            if subscriber.announced:
                announce(subscriber_disconnected, subscriber)
        if not self.subscribers and self._lingering is None:
            self._linger()

    def admit(self, subscriber: Subscriber) -> None:
        """From now on, hand `subscriber` every message of its channels above `position`."""
        for channel in subscriber.channels:
            self._live[channel][subscriber] = None

    def demote(self, subscriber: Subscriber) -> None:
        """Hand `subscriber` no more messages: it reads them from the log."""
        for channel in subscriber.channels:
            if channel in self._live:
                self._live[channel].pop(subscriber, None)
                if not self._live[channel]:
                    del self._live[channel]

    def listeners(self, channel: str) -> int:
        """How many of this loop's streams have asked for `channel`."""
        return self._census.channels[channel]

    async def catch_up(self) -> None:
        """Read the log's tail now, and so learn its real head. Who asks at the same time shares the look."""
        threads.sync_caller()  # as in join: the lock's holder may wait for that thread
        before = self._reads_begun
        async with self._reading:
            if self._reads_ended > before:
                return  # one has begun since we asked, and ended well
            self._reads_begun += 1
            while await self._read_tail():
                pass
            self._reads_ended = self._reads_begun

    # --- Following the log ---

    async def _start(self) -> None:
        # Listening before the head is read, so that no notice falls in between; the pause lets it begin.
        self._tasks.append(spawn(self._listen()))
        await asyncio.sleep(0)
        self._news.clear()  # what was heard of up to now, the head holds
        try:
            await threads.run(log.identify, pool=threads.FOLLOWING)
            self.epochs, newest = await threads.run(log.opening, pool=threads.FOLLOWING)
            await self._begin_at(newest)
        except BaseException:
            self._stop()
            raise
        outages.DATABASE.works()
        self._tasks += [spawn(self._poll()), spawn(self._tick())]
        self._begin_chores()

    def _begin_chores(self) -> None:
        self._chores = [spawn(self._do(task)) for task in tasks.registered()]

    def _linger(self) -> None:
        """Go on following the log for a while, without subscribers. To all others it looks as if the hub had stopped.

        Not in a test run: the hub must not outlive the test.
        """
        loop = asyncio.get_running_loop()
        follows = _hubs.get(loop) is self and self._started is not None and self._started.done()
        if not follows or shutdown.is_ending() or not test_run.strategy().works_unattended:
            self._stop()
            return
        self._stop_chores()
        presence.close_census(self._census)
        self._lingering = loop.call_later(LINGER_SECONDS, self._stop)

    def _resume(self) -> bool:
        """Go on with subscribers. Return True if the hub had none and lingered."""
        if self._lingering is None:
            return False
        self._lingering.cancel()
        self._lingering = None
        before = self._census
        self._census = presence.open_census(asyncio.get_running_loop(), self.subscribers)
        self._census.head, self._census.notifier_problem = before.head, before.notifier_problem
        self._begin_chores()
        return True

    def _stop_chores(self) -> None:
        for task in self._chores:
            task.cancel()
        self._chores.clear()

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
        self._stop_chores()
        self._rechecks.stop()
        presence.close_census(self._census)

    async def _begin_at(self, newest: int) -> None:
        """Take `newest` as the position, and fill the window with what lies before it.

        Filled before the first client is served: when a server has been restarted, all of them come back at once.
        """
        window = Window(newest, max_messages=settings.WINDOW_MESSAGES, max_bytes=settings.WINDOW_BYTES)
        filled = False
        while not filled:
            messages = await threads.run(log.newest, window.start, pool=threads.FOLLOWING)
            # A position that is missing was pruned. The window stops there, for it must be unbroken.
            filled = not messages or not all(window.extend_back(Frame.of(message)) for message in messages)
            filled |= window.start == 0
        self.position, self.window = newest, window
        self._census.head = newest

    async def _begin_again(self) -> None:
        """Take the log for another one. In a test it may be: the last test's was rolled back or emptied, and where
        tests share an event loop, a stream that one of them left open has kept the hub."""
        async with self._reading:
            self.epochs, newest = await threads.run(log.opening, pool=threads.FOLLOWING)
            await self._begin_at(newest)
            self._marks = Marks()
            self._send_back_all()

    async def _listen(self) -> None:
        # An outage of the process's: each hub would tell it again, and one begins with each visitor where few come.
        what = "The notifier's listener failed; polling the log meanwhile."
        backoff = Backoff(logger, what, outage=outages.LISTENING)
        while True:
            try:
                async with contextlib.aclosing(get_notifier().listen()) as notices:
                    async for notice in notices:
                        backoff.reset()
                        self._census.notifier_problem = ""
                        if notice is None:  # there may have been some that nobody heard
                            self._news.set()
                            self._rechecks.miss()
                        else:
                            await self._hear(notice)
                raise RuntimeError("The notifier's listen() has ended; it goes on until it is closed, or raises.")
            except Exception as error:
                # Its name only: the text may hold the address of a server, with a password in it. The log has it all.
                self._census.notifier_problem = type(error).__qualname__
                await backoff.wait()

    async def _hear(self, notice: Notice) -> None:
        """Apply a notice that continues our position exactly; read the log for any other that brings news."""
        if notice.revocation is not None:
            self._rechecks.hear(notice.revocation)
            return
        started = self._started is not None and self._started.done()
        if started and notice.messages and notice.first == self.position + 1 and not self._is_doubtful:
            await self._apply(notice.messages)
        elif notice.last > self.position or not started:
            self._news.set()
        elif notice.messages and self._is_contradicted_by(notice.messages[0]):
            self._is_doubtful = True
            self._news.set()

    def _is_contradicted_by(self, message: StoredEvent) -> bool:
        frame = self.window.at(message.position)
        return frame is not None and frame.data != message.encode()

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
                    outages.DATABASE.works()  # whoever has found that it does not
                except Exception:
                    if not self.subscribers:
                        return self._stop()  # the next client needs a hub that can read the log
                    await backoff.wait()
        except asyncio.CancelledError:
            self._stop()  # and not later: the loop is ending
            raise
        finally:
            # Cancelled with subscribers left: the loop is ending, and nobody else will close them.
            for subscriber in tuple(self.subscribers):
                await subscriber.aclose()

    async def _read_tail(self) -> bool:
        """Read and apply one stretch of the log's tail. Whether there is more."""
        before = self.position
        news = await threads.run(log.follow, before, self._marks.newest, pool=threads.FOLLOWING)
        if news.head.is_replaced:
            return False  # another process is starting the epoch; the next look finds it
        if news.head.start != self.epochs.start:
            await self._enter_epoch()
            return False
        if contradicts(news, before, self._marks, self.window):
            await self._fork()
            return False
        self._is_doubtful = False
        self._marks.add(before, news.head.times[1])
        newest, messages = news.head.head, news.messages
        # Where the last positions are missing, the next look finds none at all.
        through = messages[-1].position if messages else newest
        # A notice may have brought us further while we read.
        unknown = [message for message in messages if message.position > self.position]
        if len(unknown) == max(0, through - self.position):
            await self._apply(unknown)
        else:
            # Positions are missing: pruned before we came to read them. Whom that concerns, each subscriber finds
            # out by its own cursor.
            await self._begin_at(newest)
            self._send_back_all()
        return self.position < newest

    async def _fork(self) -> None:
        """Start a new epoch: the log is not the one that we followed, and the database could not tell."""
        if not test_run.strategy().starts_new_epochs:
            # The last test's log was rolled back or emptied. A new epoch would give the next test large positions.
            await self._begin_at(await threads.run(log.current_head, pool=threads.FOLLOWING))
            self._marks = Marks()
            for subscriber in self.subscribers:
                subscriber.disown()
            self._send_back_all()
            return
        fork = await threads.run(find_fork, self._marks.all(), tuple(self.window.after(self.window.start) or ()))
        start = partial(log.start_new_epoch, REASON, fork=fork, seen=self.epochs.start)
        await threads.run(start, pool=threads.WAITING)
        await self._enter_epoch()

    async def _enter_epoch(self) -> None:
        """Go on in another epoch. Streams at or below the fork go on exactly; the others get a reset."""
        epochs, newest = await threads.run(log.opening, pool=threads.FOLLOWING)
        await self._begin_at(newest)
        self.epochs = epochs
        self._marks.forget_lost(epochs)
        self._is_doubtful = False
        for subscriber in self.subscribers:
            if epochs.is_lost(subscriber.cursor) or subscriber.cursor > self.position:
                subscriber.disown()
        self._send_back_all()

    async def _apply(self, messages: Iterable[StoredEvent]) -> None:
        """Take the next messages, in order: encode each once, and hand it to whoever is live on its channel.

        The event loop gets a turn every SLICE_SECONDS, between two messages. Position, window and deliveries agree
        then, so that streams can join and leave. If other code has applied some of the messages in that time, they are
        passed over; if it has taken another position, the rest is left to the next look at the log.
        """
        overrun: list[Subscriber] = []
        window = self.window  # another one stands for another position, maybe in another log
        now = time.monotonic()
        until = now + SLICE_SECONDS
        for message in messages:
            if (now := time.monotonic()) > until:
                self._census.head = self.position
                await asyncio.sleep(0)
                now = time.monotonic()
                until = now + SLICE_SECONDS
            if message.position <= self.position and self.window is window:
                continue
            if message.position != self.position + 1 or self.window is not window:
                self._news.set()
                return
            frame = Frame.of(message)
            self.window.append(frame)
            self.position = frame.position
            for subscriber in self._live.get(frame.channel, ()):
                if not subscriber.push(frame, now):
                    overrun.append(subscriber)
            while overrun:
                self.demote(overrun.pop())
        self._census.head = self.position

    def _send_back_all(self) -> None:
        for subscriber in self.subscribers:
            subscriber.fall_behind()
            self.demote(subscriber)

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
            await asyncio.sleep(IDLE_CHORE_SECONDS if seconds is None else seconds)


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()
