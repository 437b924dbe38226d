"""A minimal ASGI app that forwards an upstream's bytes with aiohttp: the lower bound for the cost of relaying.

It does not parse the bytes and has no limits, so it is not a usable relay.
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
