"""A channel without a log, behind a site whose streams are written by the test."""

from __future__ import annotations

import asyncio
import json

from tests.system.browser.raw_streams import RawSite, Request


class Channel:
    """Sends each text to all open streams. A stream starts with the texts after its cursor."""

    def __init__(self, site: RawSite) -> None:
        self.texts: list[str] = []
        self.changed = asyncio.Condition()
        self.cuts = 0
        site.answer = self.answer

    async def send(self, *texts: str) -> None:
        async with self.changed:
            self.texts += texts
            self.changed.notify_all()

    async def news(self, id: int, title: object, author: str = "Ada") -> None:
        await self.send(f"id: {id}\ndata: {json.dumps({'title': title, 'author': {'name': author}})}\n\n")

    async def cut(self) -> None:
        """End all streams. Those that follow start at the end."""
        async with self.changed:
            self.cuts += 1
            self.changed.notify_all()

    async def answer(self, request: Request) -> None:
        await request.start()
        await request.send(":\n")
        cuts, sent = self.cuts, 0
        if "last_event_id" in request.query:
            after = int(request.query["last_event_id"])
            sent = sum(1 for text in self.texts if (found := _id(text)) is not None and found <= after)
        while cuts == self.cuts:
            texts = self.texts[sent:]
            sent += len(texts)
            await request.send(*texts)
            async with self.changed:
                await self.changed.wait_for(lambda at=sent: len(self.texts) > at or cuts != self.cuts)


def _id(text: str) -> int | None:
    return next((int(line[4:]) for line in text.split("\n") if line.startswith("id: ")), None)
