"""Send notices through notifiers as publishers do, and receive them as hubs do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from django.db import connections

from streams.notifiers import BaseNotifier, Notice
from streams.protocol.sse import StoredEvent

SECONDS = 40.0
Notices = AsyncGenerator[Notice | None, None]

REDIS_LAYERS = {
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "redis": "channels_redis.core.RedisChannelLayer",
}


def notice(number: int, data: str = "x") -> Notice:
    return Notice(number, number, (StoredEvent(number, "news", "message", data),), is_public=True)


def in_thread(call: Callable[[], None]) -> None:
    try:
        call()
    finally:
        connections.close_all()  # the connections of this thread


async def tell(notifier: BaseNotifier, *notices: Notice) -> None:
    def call() -> None:
        for one in notices:
            notifier.notify(one)

    await asyncio.to_thread(in_thread, call)


async def listening(notifier: BaseNotifier) -> Notices:
    notices = notifier.listen()
    async with asyncio.timeout(SECONDS):
        assert await anext(notices) is None, "the notifier does not listen yet"
    return notices


async def hear(notices: Notices, *, until: int) -> list[Notice]:
    """Return the notices up to the one with the position `until`, without repetitions. An echo repeats a notice."""
    received: list[Notice] = []
    async with asyncio.timeout(SECONDS):
        while not received or received[-1].last != until:
            one = await anext(notices)
            if one is not None and one not in received:
                received.append(one)
    return received
