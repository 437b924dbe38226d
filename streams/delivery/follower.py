"""Follow the tail of the log on one event loop, and hand each new message to the cohorts of its channel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from functools import partial

from django.db import Error

from streams import log
from streams.conf import settings
from streams.delivery.cohorts import SLICE_SECONDS, Cohorts
from streams.delivery.hints import Hints
from streams.delivery.listener import Listener
from streams.delivery.rechecks import Rechecks
from streams.delivery.replaced_log import REASON, Marks, contradicts, find_fork
from streams.delivery.window import Frame, Window
from streams.notifiers import Notice, get_notifier
from streams.presence import counter
from streams.protocol.sse import StoredEvent
from streams.runtime import executor, failures, test_run
from streams.runtime.failures import Backoff
from streams.telemetry import recorder

logger = logging.getLogger("streams.hub")


class Follower:
    """The position of one event loop in the log, the window of the newest messages, and the live streams.

    Code between two `await`s cannot be interrupted, and this makes the join exact: a stream that finds its cursor at
    `position` and calls `attach()` without an `await` in between gets every later message exactly once.
    """

    def __init__(self) -> None:
        self.position = 0
        self.window = Window(0, max_messages=1, max_bytes=1)
        self.epochs = log.Epochs()
        self.subscribers: set[Listener] = set()
        self._cohorts = Cohorts()
        self._started: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._reading = asyncio.Lock()
        self._reads_begun = 0
        self._reads_ended = 0  # the number of the newest that succeeded
        self._marks = Marks()
        self._hints = Hints()
        self._is_doubtful = False  # a notice contradicts the window: no notice is applied before the next read
        self._counter = counter.open_counter(asyncio.get_running_loop(), self.subscribers)
        self._rechecks = Rechecks(self.subscribers)

    def attach(self, subscriber: Listener) -> None:
        """From now on, hand `subscriber` every message of its channels above `position`."""
        self._cohorts.attach(subscriber)

    def detach(self, subscriber: Listener) -> None:
        """Hand `subscriber` no more messages: it reads them from the log."""
        self._cohorts.detach(subscriber)

    def has_handed_all(self, channels: tuple[str, ...]) -> bool:
        """Return True if the live streams of these channels were handed all their messages up to `position`."""
        return self._cohorts.have_all(channels)

    async def catch_up(self) -> None:
        """Read the log's tail now, up to its present head. Calls at the same time share one read."""
        executor.sync_caller()  # as in Hub.join(): the lock's holder may wait for that thread
        before = self._reads_begun
        async with self._reading:
            if self._reads_ended > before:
                return  # a read began after this call, and succeeded
            self._reads_begun += 1
            while await self._read_tail():
                pass
            self._reads_ended = self._reads_begun

    # --- Notices ------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        # An outage is logged once for the process and not for each hub: a quiet site starts a hub for each visitor.
        what = "The notifier's listener failed; until it is back, messages are found by polling the log."
        backoff = Backoff(logger, what, outage=failures.LISTENING)
        while True:
            try:
                async with contextlib.aclosing(get_notifier().listen()) as notices:
                    async for notice in notices:
                        backoff.reset()
                        self._counter.notifier_problem = ""
                        if notice is None:  # it listens from now on; earlier notices may be lost
                            recorder.current.notifier_state("ok")
                            self._news.set()
                            self._rechecks.on_listener_restored()
                        else:
                            await self._on_notice(notice)
                raise RuntimeError("The notifier's listen() has ended; it must go on until it is closed, or raise.")
            except Exception as error:
                # Only its name: the text can hold a server's address with a password. The log has the whole error.
                self._counter.notifier_problem = type(error).__qualname__
                recorder.current.notifier_state("degraded")
                await backoff.wait()

    async def _on_notice(self, notice: Notice) -> None:
        """Apply a notice that continues the position exactly. For any other one with new positions, read the log."""
        if notice.revocation is not None:
            self._rechecks.on_revocation(notice.revocation)
            return
        started = self._started is not None and self._started.done()
        if started and notice.messages and notice.first == self.position + 1 and not self._is_doubtful:
            if await self._apply(notice.messages, notice.traces) and notice.committed_at is not None:
                self._cohorts.note_commit(notice.committed_at)
        elif notice.last > self.position or not started:
            self._hints.add(notice)
            self._news.set()
        elif notice.messages and self.window.contradicts(notice.messages[0]):
            self._is_doubtful = True
            self._news.set()

    async def _apply(self, messages: Iterable[StoredEvent], traces: Mapping[int, str]) -> bool:
        """Take the next messages, in order: encode each once, and give it to the cohorts of its channel.

        Every SLICE_SECONDS, between two messages, other tasks of the event loop get a turn. Position, window and
        cohorts agree at that moment, so that streams can join and leave. If another task has applied some of the
        messages by then, they are skipped; if it has moved the position elsewhere, the log is read for the rest.

        Return True if a live stream gets one of them.
        """
        is_read = False
        window = self.window  # another window stands for another position, maybe in another log
        until = time.monotonic() + SLICE_SECONDS
        for message in messages:
            if (is_full := self._cohorts.is_full()) or time.monotonic() > until:
                self._counter.head = self.position
                await (self._cohorts.settle() if is_full else asyncio.sleep(0))
                until = time.monotonic() + SLICE_SECONDS
            if message.position <= self.position and self.window is window:
                continue
            if message.position != self.position + 1 or self.window is not window:
                self._news.set()
                break
            frame = window.append(message)
            self.position = frame.position
            is_read |= self._cohorts.take(frame, traces.get(frame.position))
        self._counter.head = self.position
        return is_read

    # --- Reading the log ----------------------------------------------------------------------------------------------

    async def _begin_at(self, newest: int) -> None:
        """Set the position to `newest`, and fill the window with the messages before it.

        It is filled before the first client is served: after a restart of the server, all clients reconnect at once.
        """
        window = Window(newest, max_messages=settings.WINDOW_MESSAGES, max_bytes=settings.WINDOW_BYTES)
        filled = False
        while not filled:
            messages = await executor.run(log.newest, window.start, pool=executor.FOLLOWING)
            # A missing position was pruned. The window stops there, because it must be unbroken.
            filled = not messages or not all(window.extend_back(Frame.of(message)) for message in messages)
            filled |= window.start == 0
        self.position, self.window = newest, window
        self._counter.head = newest

    async def _begin_again(self) -> None:
        """Begin as for another log. In a test it can be one: the log of the last test was rolled back or emptied.

        If tests share an event loop, a stream that an earlier test left open has kept the hub.
        """
        async with self._reading:
            await self._enter_epoch()
            self._marks = Marks()

    async def _read_tail(self) -> bool:
        """Read and apply one page of the log's tail. Return True if there is more."""
        before = self.position
        news = await executor.run(log.follow, before, self._marks.newest[0], pool=executor.FOLLOWING)
        if news.head.is_replaced:
            return False  # another process is starting the epoch; the next read finds it
        if news.head.start != self.epochs.start:
            await self._enter_epoch()
            return False
        if contradicts(news, before, self._marks, self.window):
            await self._fork()
            return False
        self._is_doubtful = False
        self._marks.add(before, news.head.times[1])
        newest, messages = news.head.head, news.messages
        # If the last positions are missing, the next read finds no message at all.
        through = messages[-1].position if messages else newest
        # A notice can have moved the position during the read.
        unknown = [message for message in messages if message.position > self.position]
        if len(unknown) == max(0, through - self.position):
            hints = self._hints.take(through)
            is_read = await self._apply(unknown, hints.traces)
            if is_read and hints.committed_at is not None:
                self._cohorts.note_commit(hints.committed_at)
            elif is_read and recorder.current.measures_polls:
                with contextlib.suppress(Error):  # a figure must not fail the read
                    age = await executor.run(log.age_seconds, through, pool=executor.FOLLOWING)
                    recorder.current.found(age, "poll")
        else:
            # Positions are missing: they were pruned before they were read. Each stream finds by its own cursor
            # whether it has missed messages.
            await self._begin_at(newest)
            self._send_back_all()
        return self.position < newest

    async def _fork(self) -> None:
        """Start a new epoch: this is another log than the one that was followed, and the database has not noticed."""
        if not test_run.strategy().starts_new_epochs:
            # The log of the last test was rolled back or emptied. A new epoch would give the next test large positions.
            await self._enter_epoch()
            self._marks = Marks()
            for subscriber in self.subscribers:
                subscriber.log_replaced()
            return
        fork = await executor.run(find_fork, self._marks.all, tuple(self.window.after(self.window.start) or ()))
        start = partial(log.start_new_epoch, REASON, fork=fork, seen=self.epochs.start)
        await executor.run(start, pool=executor.WAITING)
        await self._enter_epoch()

    async def _enter_epoch(self) -> None:
        """Go on in another epoch. Streams at or below the fork go on exactly; the others get a reset."""
        epochs, newest = await executor.run(log.opening, pool=executor.FOLLOWING)
        await self._begin_at(newest)
        self.epochs = epochs
        self._marks.forget_lost(epochs)
        self._is_doubtful = False
        for subscriber in self.subscribers:
            if epochs.is_lost(subscriber.cursor) or subscriber.cursor > self.position:
                subscriber.log_replaced()
        self._send_back_all()

    def _send_back_all(self) -> None:
        for subscriber in self.subscribers:
            subscriber.fall_behind()
            self.detach(subscriber)
