"""Notices on their way into event loops, from whatever thread they come. One mailbox for each that listens."""

from __future__ import annotations

import asyncio
from collections import deque

from streams.notifiers.base import Notice


class Mailbox:
    """Belongs to the event loop that makes it. None stands for "it listens", an exception for the end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[Notice | Exception | None] = deque()
        self._arrived = asyncio.Event()

    def put(self, item: Notice | Exception | None) -> None:
        """From any thread. Raises RuntimeError where the loop has closed."""
        self._items.append(item)
        self._loop.call_soon_threadsafe(self._arrived.set)

    async def get(self) -> Notice | None:
        while not self._items:
            self._arrived.clear()
            await self._arrived.wait()
        item = self._items.popleft()
        if isinstance(item, Exception):
            # One of its own for each loop: raised in several threads, the same would gather all their frames.
            raise ConnectionError("What the notifier listened to has gone.") from item
        return item


class Mailboxes:
    """Those of all event loops that listen in this process. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._mailboxes: set[Mailbox] = set()

    def __bool__(self) -> bool:
        return bool(self._mailboxes)

    def add(self, mailbox: Mailbox) -> None:
        self._mailboxes.add(mailbox)

    def discard(self, mailbox: Mailbox) -> None:
        self._mailboxes.discard(mailbox)

    def put(self, item: Notice | None) -> None:
        self._put(item)

    def fail(self, error: Exception) -> None:
        """Let every get() raise, after what came before it."""
        self._put(error)

    def _put(self, item: Notice | Exception | None) -> None:
        for mailbox in tuple(self._mailboxes):
            try:
                mailbox.put(item)
            except RuntimeError:  # its loop has closed, and its hub with it
                self._mailboxes.discard(mailbox)
