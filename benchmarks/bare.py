"""A minimal ASGI app with one future for each client and shared bytes: the lower bound for the cost of a delivery."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from typing import Any
from urllib.parse import parse_qs

# Each path is a channel.
_events: dict[str, list[bytes]] = defaultdict(list)
_waiting: dict[str, list[asyncio.Future[None]]] = defaultdict(list)


def payload(n: int) -> dict[str, object]:
    """Return the event's data of about 105 bytes, which is the same in all comparisons.

    `at` is when it was published, on a clock that all processes of a machine share, and the clients read it.
    """
    return {"n": n, "at": time.monotonic_ns(), "pad": "x" * 64}


def _publish(channel: str, n: int) -> None:
    body = json.dumps(payload(n), separators=(",", ":")).encode()
    events, waiting = _events[channel], _waiting[channel]
    events.append(b"id: %d\ndata: %s\n\n" % (len(events) + 1, body))
    woken = waiting.copy()
    waiting.clear()
    for future in woken:
        if not future.done():
            future.set_result(None)


async def _burst(query: dict[str, list[str]]) -> None:
    loop, rate = asyncio.get_running_loop(), float(query["rate"][0])
    channels = int(query.get("channels", ["1"])[0])
    start = loop.time()
    for i in range(int(query["n"][0])):
        _publish(f"/{i % channels}" if channels > 1 else "/", i)
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
    events, waiting = _events[scope["path"]], _waiting[scope["path"]]
    cursor, loop = len(events), asyncio.get_running_loop()
    while True:
        if cursor < len(events):
            chunk, cursor = b"".join(events[cursor:]), len(events)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        else:
            future = loop.create_future()
            waiting.append(future)
            await future
