"""Mailboxes: they bring notices from any thread to the event loops that listen."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from streams.notifiers.base import Notice


class Mailbox:
    """A queue that belongs to the event loop on which it is made. The item None means that listening has begun, and an
    exception that it has ended."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[Notice | Exception | None] = deque()
        self._arrived = asyncio.Event()

    def put(self, item: Notice | Exception | None) -> None:
        """Add an item, from any thread. Raises RuntimeError if the event loop is closed."""
        self._items.append(item)
        self._loop.call_soon_threadsafe(self._arrived.set)

    async def get(self) -> Notice | None:
        """Return the next item. Raises ConnectionError if listening has ended."""
        while not self._items:
            self._arrived.clear()
            await self._arrived.wait()
        item = self._items.popleft()
        if isinstance(item, Exception):
            # A new exception for each event loop: one that is raised in several threads collects all their frames.
            raise ConnectionError("The notifier's connection is lost.") from item
        return item


class Mailboxes(set[Mailbox]):
    """The mailboxes of all event loops of this process that listen. All methods can be called from any thread."""

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        """Yield None, and then each item for a mailbox of the running event loop, until the generator is closed."""
        mailbox = Mailbox()
        self.add(mailbox)
        try:
            yield None
            while True:
                yield await mailbox.get()
        finally:
            self.discard(mailbox)

    def put(self, item: Notice | Exception | None) -> None:
        """Put an item into every mailbox."""
        for mailbox in tuple(self):
            try:
                mailbox.put(item)
            except RuntimeError:  # its loop has closed, and its hub has ended
                self.discard(mailbox)
