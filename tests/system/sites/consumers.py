"""Consumers of Channels that publish what they receive, and answer with the newest message of the log."""

from __future__ import annotations

from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from django.db import transaction

from streams import apublish, publish
from streams.models import Message


def newest(channel: str) -> list[str]:
    """Return the messages of a channel, as a consumer reads them."""
    return list(Message.objects.filter(channel=channel).order_by("position").values_list("data", flat=True))


class AsyncPublisher(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        message = await apublish(content["channel"], content["text"])
        stored = await database_sync_to_async(newest)(content["channel"])
        await self.send_json({"position": message.position, "stored": stored})


class SyncPublisher(JsonWebsocketConsumer):
    def receive_json(self, content: Any, **kwargs: Any) -> None:
        with transaction.atomic():
            message = publish(content["channel"], content["text"])
        self.send_json({"position": message.position, "stored": newest(content["channel"])})
