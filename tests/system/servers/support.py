"""The middleware that the response tests use, and a running server whose views return an EventStreamResponse."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from tests.support.clients import StreamClient
from tests.support.sites import Server, Site
from tests.system.servers.holdings import ask

MIDDLEWARE = [
    "django.middleware.gzip.GZipMiddleware",
    "tests.support.middleware.slow",
    "tests.support.middleware.wrap_content",
    "tests.support.middleware.sync_only",
]


@dataclass
class Served:
    site: Site
    server: Server
    name: str
    behind_middleware: bool

    async def open(self, path: str, **headers: str) -> StreamClient:
        client = StreamClient(self.server.port, f"/test/response/{path}", headers=headers)
        return await client.connect(receive_buffer=4096)

    async def journal(self, key: str) -> list[Any]:
        return list((await ask(self.server, f"/test/response/journal/?key={key}"))["journal"])

    async def notes(self, key: str, expected: list[Any]) -> None:
        """Wait until the iterator's notes equal the expected ones."""
        async with asyncio.timeout(20):
            while (found := await self.journal(key)) != expected:
                assert len(found) <= len(expected), found
                await asyncio.sleep(0.05)
