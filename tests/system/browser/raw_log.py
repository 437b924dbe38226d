"""A log behind a raw site, for tests of several tabs."""

from __future__ import annotations

import asyncio

from tests.system.browser.raw_streams import RawSite, Request


class Log:
    """A small log behind a raw site: it replays after the cursor, and sends checkpoints as Streams does."""

    def __init__(self, site: RawSite) -> None:
        self.head = 0
        self.oldest = 1
        self.changed = asyncio.Condition()
        self.refuse = False
        self.replays = asyncio.Event()
        self.replays.set()
        self.replaced = 0
        site.answer = self.answer

    async def publish(self, count: int = 1) -> None:
        async with self.changed:
            self.head += count
            self.changed.notify_all()

    async def end_streams(self) -> None:
        await self.replace(self.head)

    async def replace(self, head: int) -> None:
        """Restore an older copy of the log: streams end, and cursors beyond the head get a reset."""
        async with self.changed:
            self.head = head
            self.replaced += 1
            self.changed.notify_all()

    async def answer(self, request: Request) -> None:
        if self.refuse:
            await request.start(503, "text/html")
            return
        epoch = self.replaced
        cursor = int(request.query.get("last_event_id", self.head))
        await request.start()
        if cursor > self.head or cursor < self.oldest - 1:
            cursor = self.oldest - 1
            await request.send(f'event: stream-reset\nid: {cursor}\ndata: {{"reason":"unknown-id"}}\n\n')
        else:
            await request.send(f"retry: 100\nevent: stream-checkpoint\nid: {cursor}\ndata: {{}}\n\n")
        if cursor < self.head:
            await self.replays.wait()
        live = False
        while epoch == self.replaced:
            for position in range(cursor + 1, self.head + 1):
                await request.send(f"id: {position}\ndata: {position}\n\n")
                cursor = position
            if not live:
                live = True
                await request.send(f"event: stream-checkpoint\nid: {cursor}\ndata: {{}}\n\n")
            async with self.changed:
                await self.changed.wait_for(lambda at=cursor: self.head > at or epoch != self.replaced)
