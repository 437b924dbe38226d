"""streams.subscribe() in the places where a site's own code runs. Tests in Django's TestCase are in tests/runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.testing import WebsocketCommunicator
from django.core.management import call_command
from django.core.management.base import BaseCommand

from streams import Event, EventStreamResponse, apublish, publish, subscribe
from streams.delivery.hub import Hub
from streams.testing import read_events

pytestmark = pytest.mark.django_db(transaction=True)


class NewsConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        await self.accept()
        self.news = subscribe("news", replay=10)
        self.task = asyncio.create_task(self.follow())

    async def follow(self) -> None:
        async for event in self.news:
            await self.send_json({"id": event.id, "data": event.json()})

    async def disconnect(self, code: int) -> None:
        await self.news.aclose()


async def test_channels_consumer_passes_messages_on() -> None:
    await apublish("news", {"n": 1})
    socket = WebsocketCommunicator(NewsConsumer.as_asgi(), "/news/")
    assert (await socket.connect(timeout=30))[0]
    assert await socket.receive_json_from(timeout=30) == {"id": "1", "data": {"n": 1}}
    await apublish("news", {"n": 2})
    assert await socket.receive_json_from(timeout=30) == {"id": "2", "data": {"n": 2}}
    await socket.disconnect(timeout=30)
    hub = Hub.running()
    assert hub is None or not hub.subscribers


class PrintNews(BaseCommand):
    def handle(self, *args: Any, **options: Any) -> None:
        asyncio.run(self.follow())

    async def follow(self) -> None:
        async for event in subscribe("news", after=0):
            self.stdout.write(event.data)
            if event.event == "end":
                break


def test_command_follows_a_channel() -> None:
    publish("news", "one")
    publish("news", "two", event="end")
    out = StringIO()
    for _ in range(2):  # each time on an event loop of its own
        call_command(PrintNews(), stdout=out)
    assert out.getvalue() == "one\ntwo\n" * 2


def test_sync_code_waits_for_a_message() -> None:
    """Through async_to_sync, so that the subscription runs on a loop that the calling thread waits for."""
    publish("news", "one")

    async def first() -> str:
        async with subscribe("news", after=0) as events:
            return (await anext(events)).data

    assert async_to_sync(first)() == "one"


async def test_view_makes_a_stream_of_a_subscription() -> None:
    async def shout() -> AsyncIterator[Event]:
        async with subscribe("news", replay=1) as events:
            async for event in events:
                yield Event(event.data.upper(), id=event.id)

    await apublish("news", "one")
    [event] = await read_events(EventStreamResponse(shout()), 1)
    assert (event.data, event.id) == ("ONE", "1")
