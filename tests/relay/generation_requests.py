"""Helpers for the tests of generations over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client

from streams.protocol.sse import EventStreamDecoder
from streams.relay.generations import store
from streams.relay.generations.endings import Batch, Ending
from streams.relay.models import Generation

State = Generation.State
QUESTION = {"messages": [{"role": "user", "content": "Hi"}]}


def ask(client: Any, payload: Any = QUESTION, **headers: str) -> Any:
    body = payload if isinstance(payload, str) else json.dumps(payload)
    return client.post("/ai/generations/", body, content_type="application/json", headers=headers)


def without_token(url: str) -> str:
    """Return the URL without its token."""
    return url.partition("?")[0]


def write(id: str, *texts: str, number: int = 0, end: Ending | None = None, position: int = 0) -> None:
    store.claim("w", 100)
    text = "".join(texts) if end is not None else None
    assert store.write("w", [Batch(id, number, texts, text=text, ending=end, position=position)])


def events_of(created: Any, cursor: str = "") -> list[tuple[str, str, Any]]:
    """Return (type, id, data) of the generation's events after `cursor`, without checkpoints."""

    async def read() -> Any:
        return await read_all(await AsyncClient().get(created["events_url"], headers={"Last-Event-ID": cursor}))

    found = [event for event in async_to_sync(read)() if event.event != "stream-checkpoint"]
    return [(event.event, event.id, json.loads(event.data)) for event in found]


async def read_all(response: Any) -> Any:
    """Return the events of a stream that ends by itself."""
    async with asyncio.timeout(30):
        return EventStreamDecoder().feed(b"".join([chunk async for chunk in response.streaming_content]))


END = Ending(State.DONE, "stop")
END_DATA = {"state": "done", "finish_reason": "stop", "usage": None, "error": None}


def ask_and_end(client: Client) -> dict[str, Any]:
    created = ask(client).json()
    write(created["id"], "a", "b", end=END)
    return dict(created)
