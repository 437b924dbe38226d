"""The base of notifiers between processes: one listening connection for each process, in a thread of its own.

A connection belongs to one event loop, and the event loops that serve streams start and stop. So the connection has an
event loop of its own in a daemon thread, which puts the notices into the mailboxes of the loops that listen.
"""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from django.db import connections

from streams.exceptions import InvalidSetting
from streams.notifiers import signing
from streams.notifiers.base import BaseNotifier, Notice
from streams.notifiers.mailboxes import Mailbox, Mailboxes
from streams.runtime.database import database
from streams.runtime.tasks import start_thread

T = TypeVar("T")

THREAD_NAME = "streams-notifier"
ENDED = "The notifier's thread has ended."


class ProcessNotifier(BaseNotifier):
    """Delivers each notice to this process directly, and sends it to the other processes over a bus.

    The process receives its own notice again from the bus. That is a repeated notice, which hubs ignore. A subclass
    implements send() and receive().
    """

    # How long the unused thread is kept. Above 0 in notifiers that use the thread for sending too.
    linger_seconds = 0.0

    def __init__(self, carry_messages: bool | None = None) -> None:
        """carry_messages: True to send notices with their messages, False to send positions only.

        With None, messages are sent only if everyone can read them, because other programs can listen on the bus.
        """
        if carry_messages not in (True, False, None):
            raise InvalidSetting(
                f"{type(self).__name__}'s option 'carry_messages' must be True, False or None; got {carry_messages!r}."
            )
        self._carry_messages = carry_messages
        self._decoder = signing.Decoder()
        self._lock = threading.Lock()
        self._thread: ListenerThread | None = None

    @abstractmethod
    def send(self, notice: Notice) -> None:
        """Send the notice to the other processes. Called on the publisher's thread. It can raise any exception."""

    def encode(self, notice: Notice, max_bytes: int) -> str:
        """Return the notice as text of at most `max_bytes` bytes, with its messages if they are allowed and fit."""
        carries = notice.is_public if self._carry_messages is None else self._carry_messages
        return signing.encode(notice if carries else replace(notice, messages=()), max_bytes)

    def take(self, thread: ListenerThread, text: object) -> None:
        """Deliver the notice that `text` holds, unless it must be ignored."""
        if (notice := self._decoder.decode(text)) is not None:
            thread.deliver(notice)

    @abstractmethod
    async def receive(self, thread: ListenerThread) -> None:
        """Connect, call `thread.mark_listening()`, then `take()` for each notice, until cancelled.

        Runs on the thread's event loop. It raises an exception if the connection is lost, and is cancelled when no
        event loop listens any more; then it closes the connection.
        """

    def notify(self, notice: Notice) -> None:
        if (thread := self._thread) is not None:
            thread.deliver(notice)
        # A transaction that is open here is one around a test: other processes never see its messages.
        if not connections[database()].in_atomic_block:
            self.send(notice)

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        mailbox = Mailbox()
        thread = self.on_thread(lambda thread: thread if thread.add_mailbox(mailbox) else None)
        try:
            while True:
                yield await mailbox.get()
        finally:
            thread.remove_mailbox(mailbox)

    def on_thread(self, use: Callable[[ListenerThread], T | None]) -> T:
        """Return `use(thread)`. If it is None, the thread has ended, and a new one is used."""
        with self._lock:
            result = None if self._thread is None else use(self._thread)
            if result is None:
                self._thread = ListenerThread(self.receive, self.linger_seconds)
                result = use(self._thread)
        if result is None:
            raise ConnectionError(ENDED)
        return result


class ListenerThread:
    """A daemon thread with an event loop, on which a notifier listens.

    It ends when it is not needed or when the connection is lost. It is not used again after that.
    """

    def __init__(self, receive: Callable[[ListenerThread], Coroutine[Any, Any, None]], linger_seconds: float) -> None:
        self._receive = receive
        self._linger_seconds = linger_seconds
        self._lock = threading.Lock()
        self._mailboxes = Mailboxes()
        self._called: dict[Future[None], Coroutine[Any, Any, None]] = {}
        self._is_listening = False
        self._ended = False
        self._over = asyncio.Event()
        self._receiving: asyncio.Task[None] | None = None
        # asyncio's own loop, also if the site's event loop policy makes another kind.
        self.loop = asyncio.SelectorEventLoop()
        try:
            start_thread(self._run, THREAD_NAME)
        except BaseException:
            self.loop.close()
            raise

    # --- From any thread ---

    def add_mailbox(self, mailbox: Mailbox) -> bool:
        """Put notices into `mailbox` too, after a None once listening has begun. Return False if the thread ended."""
        with self._lock:
            if self._ended:
                return False
            self._mailboxes.add(mailbox)
            if self._is_listening:
                mailbox.put(None)
            self._update_soon()
            return True

    def remove_mailbox(self, mailbox: Mailbox) -> None:
        """Put no more notices into `mailbox`. Can be called twice, and after the thread has ended."""
        with self._lock:
            self._mailboxes.discard(mailbox)
            if not self._ended:
                self._update_soon()

    def run(self, make: Callable[[], Coroutine[Any, Any, None]]) -> Future[None] | None:
        """Run the coroutine `make()` on the thread's event loop. Return None if the thread has ended.

        The thread does not end before the call, unless the connection is lost. Then the future fails.
        """
        with self._lock:
            if self._ended:
                return None
            coroutine = make()
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
            self._called[future] = coroutine
        future.add_done_callback(self._release)
        return future

    def deliver(self, notice: Notice) -> None:
        """Put a notice into all mailboxes, if listening has begun."""
        with self._lock:
            if self._is_listening:
                self._mailboxes.put(notice)

    def _release(self, future: Future[None]) -> None:
        with self._lock:
            self._called.pop(future, None)
            if not self._ended:
                self._update_soon()

    def _update_soon(self) -> None:
        self.loop.call_soon_threadsafe(self._update)

    # --- On the thread's event loop ---

    def mark_listening(self) -> None:
        """Record that every notice that is sent from now on will be received."""
        with self._lock:
            if not self._is_listening:
                self._is_listening = True
                self._mailboxes.put(None)

    def _update(self) -> None:
        """Start to receive if there are mailboxes, stop if there are none, and end the thread if it is not needed."""
        with self._lock:
            if self._mailboxes and self._receiving is None:
                self._receiving = self.loop.create_task(self._receive(self))
                self._receiving.add_done_callback(self._end_with)
            elif not self._mailboxes and self._receiving is not None:
                self._receiving.cancel()
                self._receiving, self._is_listening = None, False
            if not self._mailboxes and not self._called:
                self.loop.call_later(self._linger_seconds, self._end_idle)

    def _end_idle(self) -> None:
        with self._lock:
            if not self._mailboxes and not self._called:
                self._ended = True
                self._over.set()

    def _end_with(self, receiving: asyncio.Task[None]) -> None:
        if receiving.cancelled():
            return
        error = receiving.exception()
        with self._lock:
            if receiving is self._receiving:
                self._ended, self._is_listening = True, False
                self._mailboxes.put(error if isinstance(error, Exception) else RuntimeError("receive() has returned."))
                self._over.set()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._until_over())  # and then cancels the remaining tasks
        finally:
            with self._lock:
                self._ended = True
                left = dict(self._called)
            for future, coroutine in left.items():  # they were not started
                coroutine.close()
                future.set_exception(ConnectionError(ENDED))

    async def _until_over(self) -> None:
        try:
            await self._over.wait()
        finally:  # before the event loop closes, because it accepts no calls after that
            with self._lock:
                self._ended = True
