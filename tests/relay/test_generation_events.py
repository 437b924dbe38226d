"""The event stream of a generation: live, resumed, from the log, and after pieces were lost."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError
from django.test import AsyncClient, Client

from streams import log, publish
from streams.relay.generations import chunks, housekeeping, store
from streams.relay.generations.endings import Batch
from streams.relay.models import Generation
from streams.testing import read_events
from tests.relay.generation_requests import END, END_DATA, QUESTION, ask, ask_and_end, events_of, read_all, write

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("everyone_may_ask")]


async def test_stream_holds_whole_generation() -> None:
    client = AsyncClient()
    created = json.loads((await client.post("/ai/generations/", QUESTION, content_type="application/json")).content)
    await sync_to_async(write)(created["id"], "a", "b")
    response = await client.get(created["events_url"])
    reading = asyncio.create_task(read_all(response))
    await asyncio.sleep(0.2)
    await sync_to_async(write)(created["id"], "c", number=2, end=END, position=2)
    found = [event for event in await reading if event.event != "stream-checkpoint"]
    assert [event.data for event in found[:3]] == [f'{{"n":{n},"text":"{text}"}}' for n, text in enumerate("abc")]
    assert [(event.event, json.loads(event.data)) for event in found[3:]] == [("end", END_DATA)]


async def test_stream_resumes_after_last_id() -> None:
    client = AsyncClient()
    created = json.loads((await client.post("/ai/generations/", QUESTION, content_type="application/json")).content)
    await sync_to_async(write)(created["id"], "a", "b", "c")
    response = await client.get(created["events_url"], headers={"Last-Event-ID": "2"})
    assert [event.data for event in await read_events(response, 1)] == ['{"n":2,"text":"c"}']
    response.close()


def test_ended_generation_is_streamed_from_log(client: Client) -> None:
    """A client that has received all events gets 204, so that its EventSource does not reconnect."""
    created = ask_and_end(client)
    both = [("message", "1", {"n": 0, "text": "a"}), ("message", "2", {"n": 1, "text": "b"})]
    end = ("end", "3", END_DATA)
    assert events_of(created) == [*both, end]
    assert events_of(created, "1") == [both[1], end]
    assert events_of(created, "2") == [end]
    publish("news", "later")
    for cursor in ("3", "4"):
        response = client.get(created["events_url"], headers={"Last-Event-ID": cursor})
        assert (response.status_code, response.content) == (204, b"")


def assert_reset(client: Client, created: dict[str, Any], cursor: str, text: str) -> None:
    reset, snapshot, end = events_of(created, cursor)
    assert (reset[0], reset[2]["reason"], reset[2]["requested"]) == ("stream-reset", "unknown-id", cursor)
    assert (snapshot[0], snapshot[2]["text"], end[0]) == ("stream-snapshot", text, "end")
    again = client.get(created["events_url"], headers={"Last-Event-ID": end[1]})
    assert again.status_code == 204, "there are no more events"


@pytest.mark.parametrize("cursor", ["4", "999999"])
def test_id_above_head_is_reset(client: Client, cursor: str) -> None:
    assert_reset(client, ask_and_end(client), cursor, "ab")


def test_id_of_lost_history_is_reset(client: Client) -> None:
    """The log went back to 1 during the generation, and clients have received pieces that no longer exist."""
    created = ask(client).json()
    write(created["id"], "a")
    log.start_new_epoch("restored", fork=1)
    write(created["id"], "b", number=1, end=END)
    assert_reset(client, created, "2", "b")


def compact(created: dict[str, Any]) -> None:
    housekeeping._delete_messages(Generation.objects.get(pk=created["id"]))
    store.mark_compacted(created["id"])


def prune(created: dict[str, Any]) -> None:
    log.delete_through(1, channel=created["channel"], limit=1)


@pytest.mark.parametrize("lose", [compact, prune])
def test_lost_pieces_come_as_snapshot(client: Client, lose: Any) -> None:
    created = ask_and_end(client)
    lose(created)
    end = ("end", "3", END_DATA)
    assert events_of(created) == [("message", "0", {"n": 0, "text": "ab"}), end]
    cursor = "1" if lose is compact else "0"
    reset, snapshot, last = events_of(created, cursor)
    assert (reset[0], reset[2]["reason"]) == ("stream-reset", "pruned")
    assert (snapshot[0], snapshot[2]) == ("stream-snapshot", {"n": 2, "text": "ab", "state": "done"})
    assert last == end


@pytest.mark.parametrize("cursor", ["x", "-1", "9" * 30])
def test_malformed_id_is_reset(client: Client, cursor: str) -> None:
    created = ask_and_end(client)
    found = events_of(created, cursor)
    assert [event for event, _, _ in found] == ["stream-reset", "stream-snapshot", "end"]
    assert found[0][2]["reason"] == "malformed-id"


async def test_running_generation_continues_after_snapshot() -> None:
    client = AsyncClient()
    created = json.loads((await client.post("/ai/generations/", QUESTION, content_type="application/json")).content)

    @sync_to_async
    def begin() -> None:
        store.claim("w", 1)
        store.write("w", [Batch(created["id"], 0, ("a", "b"))])
        store.write("w", [Batch(created["id"], 2, (), position=2, text="ab")])
        log.delete_through(2, channel=created["channel"], limit=10)

    await begin()
    response = await client.get(created["events_url"], headers={"Last-Event-ID": "1"})
    text = await anext(aiter(response.streaming_content))
    await sync_to_async(write)(created["id"], "c", number=2, position=2)
    async for chunk in response.streaming_content:
        text += chunk
        if b'"c"' in text:
            break
    assert b"event: stream-reset\n" in text
    assert b'event: stream-snapshot\nid: 2\ndata: {"n":2,"text":"ab","state":"running"}' in text
    assert b'id: 3\ndata: {"n":2,"text":"c"}' in text
    response.close()


async def test_unavailable_database_ends_stream_with_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = AsyncClient()
    created = (await client.post("/ai/generations/", QUESTION, content_type="application/json")).json()

    def away(id: str) -> None:
        raise OperationalError("the connection was refused")

    monkeypatch.setattr(chunks, "get", away)
    response = await client.get(created["events_url"])
    body = b"".join([chunk async for chunk in response.streaming_content])
    assert (response.status_code, response.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert body.endswith(b"retry: 3000\n\n")
    refused = await client.get(created["url"])
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert "refused" not in refused.content.decode()
