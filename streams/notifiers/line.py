"""What notifiers between processes have in common: one listening connection for a process, in a thread of its own.

The event loops that streams run on come and go, and a connection belongs to one loop. So it lives on a loop that has
nothing else to do, in a daemon thread, and notices go from there into the mailboxes of the loops that listen.
"""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from django.db import connections

from streams.databases import database
from streams.exceptions import InvalidSetting
from streams.notifiers import wire
from streams.notifiers.base import BaseNotifier, Notice
from streams.notifiers.mailboxes import Mailbox, Mailboxes

THREAD_NAME = "streams-notifier"
ENDED = "The line to the other processes has ended."


class LineNotifier(BaseNotifier):
    """Hands each notice to this process at once, and carries it to the others. Its echo is a repeated notice: harmless.

    A subclass says how to carry and how to hear.
    """

    # How long the thread stays when nobody needs it. Above 0 where sending needs it too.
    linger_seconds = 0.0

    def __init__(self, carry_messages: bool | None = None) -> None:
        """`carry_messages`: True if notices carry their messages, False if they carry positions only.

        None: they carry messages if everyone can read them. Other programs can listen on the bus as well.
        """
        if carry_messages not in (True, False, None):
            raise InvalidSetting(
                f"{type(self).__name__}'s carry_messages is True, False or None; got {carry_messages!r}."
            )
        self._carry_messages = carry_messages
        self._decoder = wire.Decoder()
        self._lock = threading.Lock()
        self._line: Line | None = None

    @abstractmethod
    def carry(self, notice: Notice) -> None:
        """Send the notice to the other processes. On the caller's thread; may raise."""

    def encode(self, notice: Notice, max_bytes: int) -> str:
        """Return the notice as text, with its messages if they can be carried and fit."""
        carries = notice.is_public if self._carry_messages is None else self._carry_messages
        return wire.encode(notice if carries else replace(notice, messages=()), max_bytes)

    def decode(self, text: object) -> Notice | None:
        """Return the notice that `text` holds, or None if it must be ignored."""
        return self._decoder.decode(text)

    @abstractmethod
    async def hear(self, line: Line) -> None:
        """Connect, call `line.begin()`, then `line.take()` for each notice, without end. Runs on the line's loop.

        Raises where the connection is lost; is cancelled when nobody listens any more, and then gives it back.
        """

    def notify(self, notice: Notice) -> None:
        if (line := self._line) is not None:
            line.take(notice)
        # In a transaction it is one that is around a test: other processes will never find there what it tells of.
        if not connections[database()].in_atomic_block:
            self.carry(notice)

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        mailbox = Mailbox()
        line = self.line(lambda line: line.join(mailbox))
        try:
            while True:
                yield await mailbox.get()
        finally:
            line.leave(mailbox)

    def line(self, use: Callable[[Line], bool]) -> Line:
        """The line on which `use` succeeded: the present one, or a new one where that has ended."""
        with self._lock:
            if self._line is None or not use(self._line):
                self._line = Line(self.hear, self.linger_seconds)
                use(self._line)
            return self._line


class Line:
    """A daemon thread with an event loop. Ends when nobody needs it, or with the connection. Never used again then."""

    def __init__(self, hear: Callable[[Line], Coroutine[Any, Any, None]], linger_seconds: float) -> None:
        self._hear = hear
        self._linger_seconds = linger_seconds
        self._lock = threading.Lock()
        self._mailboxes = Mailboxes()
        self._calls = 0
        self._called: dict[Future[None], Coroutine[Any, Any, None]] = {}
        self._hears = False
        self._ended = False
        self._over = asyncio.Event()
        self._hearing: asyncio.Task[None] | None = None
        # asyncio's own, whatever loop a site's policy would make.
        self.loop = asyncio.SelectorEventLoop()
        try:
            threading.Thread(target=self._run, name=THREAD_NAME, daemon=True).start()
        except BaseException:
            self.loop.close()
            raise

    # --- From any thread ---

    def join(self, mailbox: Mailbox) -> bool:
        """Put notices into `mailbox` as well, beginning with None when they are heard. False: the line has ended."""
        with self._lock:
            if self._ended:
                return False
            self._mailboxes.add(mailbox)
            if self._hears:
                mailbox.put(None)
            self._look_soon()
            return True

    def leave(self, mailbox: Mailbox) -> None:
        """May be called twice, and after the end."""
        with self._lock:
            self._mailboxes.discard(mailbox)
            if not self._ended:
                self._look_soon()

    def hold(self) -> bool:
        """Keep the line for one call(). False: it has ended."""
        with self._lock:
            self._calls += not self._ended
            return not self._ended

    def call(self, coroutine: Coroutine[Any, Any, None]) -> Future[None]:
        """Run on the line's loop what it was held for. Its future is done in the end, whatever becomes of the line."""
        with self._lock:
            if not self._ended:
                future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
                self._called[future] = coroutine
            else:  # what it hears has failed since: the loop may be past its tasks, and never come to another one
                coroutine.close()
                future = Future()
                future.set_exception(ConnectionError(ENDED))
        future.add_done_callback(self._release)
        return future

    def take(self, notice: Notice) -> None:
        """Hand a notice to all who have been told that they hear."""
        with self._lock:
            if self._hears:
                self._mailboxes.put(notice)

    def _release(self, future: Future[None]) -> None:
        with self._lock:
            self._calls -= 1
            self._called.pop(future, None)
            if not self._ended:
                self._look_soon()

    def _look_soon(self) -> None:
        self.loop.call_soon_threadsafe(self._look)

    # --- On the loop ---

    def begin(self) -> None:
        """It listens: whatever is sent from now on will be heard."""
        with self._lock:
            if not self._hears:
                self._hears = True
                self._mailboxes.put(None)

    def _look(self) -> None:
        """Begin to hear, or stop, as there are mailboxes; and end when there is nothing to do."""
        with self._lock:
            if self._mailboxes and self._hearing is None:
                self._hearing = self.loop.create_task(self._hear(self))
                self._hearing.add_done_callback(self._end_with)
            elif not self._mailboxes and self._hearing is not None:
                self._hearing.cancel()
                self._hearing, self._hears = None, False
            if not self._mailboxes and not self._calls:
                self.loop.call_later(self._linger_seconds, self._end_idle)

    def _end_idle(self) -> None:
        with self._lock:
            if not self._mailboxes and not self._calls:
                self._ended = True
                self._over.set()

    def _end_with(self, hearing: asyncio.Task[None]) -> None:
        if hearing.cancelled():
            return
        error = hearing.exception()
        with self._lock:
            if hearing is self._hearing:
                self._ended, self._hears = True, False
                self._mailboxes.put(error if isinstance(error, Exception) else RuntimeError("hear() has ended."))
                self._over.set()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._until_over())  # and then cancels what is left
        finally:
            with self._lock:
                self._ended = True
                left = dict(self._called)
            for future, coroutine in left.items():  # nobody comes to them any more
                coroutine.close()
                future.set_exception(ConnectionError(ENDED))

    async def _until_over(self) -> None:
        try:
            await self._over.wait()
        finally:  # before the loop closes, which takes no calls then
            with self._lock:
                self._ended = True
