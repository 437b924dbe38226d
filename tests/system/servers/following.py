"""An ASGI application that follows a channel for as long as its server runs, as in docs/guides/python-client.md."""

from __future__ import annotations

import asyncio
from typing import Any

import project.asgi
from streams import apublish, subscribe


async def follow() -> None:
    async with subscribe("news") as events:
        async for event in events:
            await apublish("public.copies", event.data)


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "lifespan":
        await project.asgi.application(scope, receive, send)
        return
    await receive()  # lifespan.startup
    task = asyncio.create_task(follow())
    await send({"type": "lifespan.startup.complete"})
    await receive()  # lifespan.shutdown
    task.cancel()
    await asyncio.wait([task])
    await send({"type": "lifespan.shutdown.complete"})
