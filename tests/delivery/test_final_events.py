"""Streams with final events: a message of one of these types ends the stream, and its clients do not reconnect."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient, override_settings
from django.urls import path

from streams import NewMessage, apublish, apublish_many, log
from streams.delivery.hub import Hub
from streams.delivery.subscriber import Subscriber
from streams.protocol.sse import DecodedEvent, EventStreamDecoder
from streams.views import EventStreamView

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls(__name__)]


class Job(EventStreamView):
    final_events = ("done", "failed")


class JobWithState(Job):
    async def get_snapshot(self, request: Any, channels: Any) -> str:
        return "the state"


urlpatterns = [
    path("jobs/", Job.as_view()),
    path("jobs/<str:channel>/", Job.as_view()),
    path("states/<str:channel>/", JobWithState.as_view()),
]


@pytest.fixture(autouse=True)
def public(settings: Any) -> None:
    settings.STREAMS = {"PUBLIC_CHANNELS": ["*"]}


async def get_events(path: str, cursor: int | None = None) -> list[DecodedEvent]:
    """Return the events of a stream that ends by itself, without its checkpoints."""
    response = await AsyncClient().get(path, headers={} if cursor is None else {"Last-Event-ID": str(cursor)})
    return await read(response)


async def read(response: Any) -> list[DecodedEvent]:
    async with asyncio.timeout(20):
        body = b"".join([chunk async for chunk in response.streaming_content])
    return [event for event in EventStreamDecoder().feed(body) if event.event != "stream-checkpoint"]


def types(events: list[DecodedEvent]) -> list[tuple[str, str]]:
    return [(event.event, event.data) for event in events]


async def test_live_stream_ends_after_the_final_event() -> None:
    reading = asyncio.create_task(read(await AsyncClient().get("/jobs/a/")))
    await asyncio.sleep(0.2)
    await apublish("a", "half", event="progress")
    await apublish("a", "all", event="done")
    assert types(await reading) == [("progress", "half"), ("done", "all")]
    async with asyncio.timeout(20):
        while Hub.running() is not None:  # the hub stops after its last subscriber has left
            await asyncio.sleep(0.01)


async def test_replay_ends_there_too_and_what_follows_it_is_not_sent() -> None:
    await apublish("a", "half", event="progress")
    await apublish("a", "no", event="failed")
    assert types(await get_events("/jobs/a/", 0)) == [("progress", "half"), ("failed", "no")]
    await apublish("a", "again", event="progress")
    assert types(await get_events("/jobs/a/", 0)) == [("progress", "half"), ("failed", "no")]


async def test_what_came_after_the_end_is_another_stretch() -> None:
    await apublish("a", "no", event="failed")
    await apublish("a", "again", event="progress")
    await apublish("a", "yes", event="done")
    assert types(await get_events("/jobs/a/", 1)) == [("progress", "again"), ("done", "yes")]


@pytest.mark.parametrize("cursor", [2, 3])
async def test_client_that_comes_back_after_the_end_is_told_to_stay_away(cursor: int) -> None:
    await apublish("a", "half", event="progress")
    await apublish("a", "all", event="done")
    await apublish("b", "elsewhere")
    response = await AsyncClient().get("/jobs/a/", headers={"Last-Event-ID": str(cursor)})
    assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize("cursor", [2, 9])
async def test_ended_channel_resets_a_lost_cursor(cursor: int) -> None:
    """Position 2 was lost when the log was restored to position 1. Position 9 is above the head."""
    await apublish("b", "elsewhere")
    await apublish("a", "all", event="done")
    if cursor == 2:
        await sync_to_async(log.start_new_epoch)("restored", fork=1)
    reset, done = await get_events("/jobs/a/", cursor)
    assert (reset.event, json.loads(reset.data)["reason"]) == ("stream-reset", "unknown-id")
    assert types([done]) == [("done", "all")]


async def test_fresh_client_of_what_has_ended_is_let_go() -> None:
    await apublish("a", "all", event="done")
    assert await get_events("/jobs/a/") == []
    assert types(await get_events("/jobs/a/?replay=5")) == [("done", "all")]


async def test_state_of_what_has_ended_is_the_last_that_is_sent() -> None:
    await apublish("a", "all", event="done")
    assert types(await get_events("/states/a/")) == [("stream-snapshot", "the state")]


async def test_type_that_only_looks_final_is_not() -> None:
    await apublish_many(
        [
            NewMessage("a", "event: done", event="done2"),
            NewMessage("a", "x\nevent: done\n"),
            NewMessage("a", "z", "done"),
        ]
    )
    assert [event.event for event in await get_events("/jobs/a/", 0)] == ["done2", "message", "done"]


async def test_any_of_several_channels_ends_the_stream() -> None:
    await apublish_many([NewMessage("a", "1"), NewMessage("b", "2", "done"), NewMessage("a", "3")])
    assert types(await get_events("/jobs/?channel=a&channel=b", 0)) == [("message", "1"), ("done", "2")]
    response = await AsyncClient().get("/jobs/?channel=a&channel=b", headers={"Last-Event-ID": "2"})
    assert response.status_code == 200, "a message follows the final event"
    response.close()


async def test_what_follows_the_end_is_not_sent_where_both_come_at_once() -> None:
    reading = asyncio.create_task(read(await AsyncClient().get("/jobs/?channel=a&channel=b")))
    await asyncio.sleep(0.2)
    await apublish_many([NewMessage("a", "1", "done"), NewMessage("b", "2"), NewMessage("b", "3", "failed")])
    assert types(await reading) == [("done", "1")]
    assert types(await get_events("/jobs/?channel=a&channel=b", 1)) == [("message", "2"), ("failed", "3")]


async def test_default_type_cannot_be_final() -> None:
    with pytest.raises(ValueError, match="choose another"):
        Subscriber(["a"], final_events=["message"])


async def test_reader_that_fell_behind_reads_up_to_the_end() -> None:
    with override_settings(STREAMS={"PUBLIC_CHANNELS": ["*"], "QUEUE_MESSAGES": 3, "WINDOW_MESSAGES": 3}):
        reading = asyncio.create_task(read(await AsyncClient().get("/jobs/a/")))
        await asyncio.sleep(0.2)
        await apublish_many([NewMessage("a", str(n)) for n in range(50)])
        await apublish("a", "all", event="done")
        found = await reading
    assert [event.data for event in found] == [*map(str, range(50)), "all"]


async def test_id_that_is_none_is_reset_and_then_ends() -> None:
    await apublish("a", "all", event="done")
    response = await AsyncClient().get("/jobs/a/", headers={"Last-Event-ID": "no number"})
    assert [event.event for event in await read(response)] == ["stream-reset", "done"]
