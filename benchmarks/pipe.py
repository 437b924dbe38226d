"""What relaying costs at the least: a bare ASGI app that passes an upstream's bytes on as they come, by aiohttp.

It reads nothing of what it passes, and keeps no limit, so that it is no relay; it is what one is measured by.
"""

from __future__ import annotations

import os
from typing import Any

import aiohttp

_sessions: list[aiohttp.ClientSession] = []


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    if not _sessions:
        connector = aiohttp.TCPConnector(limit=0)
        _sessions.append(aiohttp.ClientSession(connector=connector, auto_decompress=False))
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    url = os.environ["CHAT_BASE_URL"] + "/chat/completions"
    async with _sessions[0].post(url, data=body, timeout=aiohttp.ClientTimeout(total=None)) as answer:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        async for chunk in answer.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
