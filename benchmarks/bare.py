"""A minimal ASGI app with one future for each client and shared bytes: the lower bound for the cost of a delivery."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs

_events: list[bytes] = []
_waiting: list[asyncio.Future[None]] = []


def payload(n: int) -> dict[str, object]:
    """Return the event's data, which is the same in all comparisons."""
    return {"n": n, "pad": "x" * 100}


def _publish(n: int) -> None:
    body = json.dumps(payload(n), separators=(",", ":")).encode()
    _events.append(b"id: %d\ndata: %s\n\n" % (len(_events) + 1, body))
    woken = _waiting.copy()
    _waiting.clear()
    for future in woken:
        if not future.done():
            future.set_result(None)


async def _burst(query: dict[str, list[str]]) -> None:
    loop, rate = asyncio.get_running_loop(), float(query["rate"][0])
    start = loop.time()
    for i in range(int(query["n"][0])):
        _publish(i)
        await asyncio.sleep(max(0.0, start + (i + 1) / rate - loop.time()) if rate else 0)


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    if scope["path"] == "/burst/":
        await _burst(parse_qs(scope["query_string"].decode()))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})
        return
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b":\n", "more_body": True})
    cursor, loop = len(_events), asyncio.get_running_loop()
    while True:
        if cursor < len(_events):
            chunk, cursor = b"".join(_events[cursor:]), len(_events)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        else:
            future = loop.create_future()
            _waiting.append(future)
            await future
