"""The default notifier: this process's hubs, from any of its threads. Other processes' hubs find news by polling."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from streams.notifiers.base import BaseNotifier, Notice


class LocalNotifier(BaseNotifier):
    """Hands notices from publishers' threads to the event loops of this process. Needs no server and no options."""

    def __init__(self) -> None:
        self._mailboxes: set[_Mailbox] = set()

    def notify(self, notice: Notice) -> None:
        for mailbox in tuple(self._mailboxes):
            try:
                mailbox.put(notice)
            except RuntimeError:  # its loop has closed, and its hub with it
                self._mailboxes.discard(mailbox)

    async def listen(self) -> AsyncGenerator[Notice | None, None]:
        mailbox = _Mailbox()
        self._mailboxes.add(mailbox)
        try:
            yield None
            while True:
                yield await mailbox.get()
        finally:
            self._mailboxes.discard(mailbox)


class _Mailbox:
    """Notices on their way into one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._notices: deque[Notice] = deque()
        self._arrived = asyncio.Event()

    def put(self, notice: Notice) -> None:
        self._notices.append(notice)
        self._loop.call_soon_threadsafe(self._arrived.set)

    async def get(self) -> Notice:
        while not self._notices:
            self._arrived.clear()
            await self._arrived.wait()
        return self._notices.popleft()
