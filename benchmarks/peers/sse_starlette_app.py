"""The measured app with sse-starlette. It has no channels, so that this one gives each stream a queue, as usual."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.bare import payload

_queues: set[asyncio.Queue[ServerSentEvent]] = set()


async def stream(request: Request) -> EventSourceResponse:
    queue: asyncio.Queue[ServerSentEvent] = asyncio.Queue()

    async def events() -> AsyncIterator[ServerSentEvent]:
        _queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            _queues.discard(queue)

    return EventSourceResponse(events())


async def burst(request: Request) -> JSONResponse:
    loop, rate = asyncio.get_running_loop(), float(request.query_params["rate"])
    start = loop.time()
    for i in range(int(request.query_params["n"])):
        event = ServerSentEvent(json.dumps(payload(i), separators=(",", ":")), id=str(i))
        for queue in _queues:
            queue.put_nowait(event)
        await asyncio.sleep(max(0.0, start + (i + 1) / rate - loop.time()) if rate else 0)
    return JSONResponse({})


application = Starlette(routes=[Route("/", stream), Route("/burst/", burst)])
