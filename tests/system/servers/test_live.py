"""The bytes and events of a live stream, on every server and with both ASGI applications."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.clients import StreamClient
from tests.support.sites import Server, Site
from tests.system.servers.conftest import STOCK
from tests.system.servers.holdings import publish

pytestmark = pytest.mark.once


async def test_quiet_stream_opens_at_once(shared_server: Server, channel: str) -> None:
    client = await StreamClient(shared_server.port, f"/events/{channel}/").connect()
    [checkpoint] = await client.read_control(1)
    await client.close()
    assert client.status == 200
    assert client.response_headers["content-type"] == "text/event-stream; charset=utf-8"
    assert client.response_headers["cache-control"] == "no-cache, no-transform"
    assert client.response_headers["x-accel-buffering"] == "no"
    assert checkpoint.event == "stream-checkpoint"
    assert client.raw.startswith(b"retry: 3000\nevent: stream-checkpoint\nid: ")
    assert client.events == []


async def test_quiet_stream_carries_heartbeats_and_no_events(shared_server: Server, channel: str) -> None:
    client = await StreamClient(shared_server.port, f"/events/{channel}/").connect()
    await client.read_control(1)
    first_block = len(client.raw)
    while client.raw[first_block:].count(b":\n") < 3:
        assert await client.read()
    await client.close()
    assert client.raw[first_block:] == b":\n:\n:\n"
    assert client.events == []
    assert len(client.control) == 1


async def test_quiet_streams_cursor_follows_the_log(shared_server: Server, channel: str) -> None:
    client = await StreamClient(shared_server.port, f"/events/{channel}/").connect()
    await client.read_control(1)
    last = await publish(shared_server, f"{channel}.other", n=5)
    checkpoints = await client.read_control(2)
    await client.close()
    assert checkpoints[-1].event == "stream-checkpoint"
    assert client.last_event_id == str(last)
    assert client.events == []


async def test_each_event_arrives_before_the_next_is_published(shared_server: Server, channel: str) -> None:
    client = await StreamClient(shared_server.port, f"/events/{channel}/").connect()
    await client.read_control(1)
    for number in range(1, 21):
        last = await publish(shared_server, channel)
        assert len(await client.read_until(number)) == number
        assert client.last_event_id == str(last)
    await client.close()


async def test_messages_are_passed_to_the_server_without_a_task(
    shared: tuple[Site, Server], request: pytest.FixtureRequest, channel: str
) -> None:
    """Only within our applications, and on servers whose `send` can be called by any task."""
    _, server = shared
    client = await StreamClient(server.port, f"/events/{channel}/").connect()
    await client.read_control(1)
    is_direct = (await asyncio.to_thread(server.json, "/test/process/"))["direct"] > 0
    last = await publish(server, channel, n=50)
    await client.read_until(50)
    await client.close()
    assert [int(event.id) for event in client.events] == list(range(last - 49, last + 1))
    name = request.node.callspec.params["shared"]
    assert is_direct == (name[1] != STOCK and name[0] != "hypercorn")


async def test_event_of_another_process_arrives(shared_site: Site, shared_server: Server, channel: str) -> None:
    client = await StreamClient(shared_server.port, f"/events/{channel}/").connect()
    await client.read_control(1)
    shared_site.manage("publish", channel, "from afar\nin two lines", "--event", "greeting")
    [event] = await client.read_until(1)
    await client.close()
    assert (event.event, event.data) == ("greeting", "from afar\nin two lines")


async def test_large_event_arrives_whole_and_alone(shared_server: Server, channel: str) -> None:
    client = await StreamClient(shared_server.port, f"/events/{channel}/").connect()
    await client.read_control(1)
    await publish(shared_server, channel, bytes=200_000)
    await publish(shared_server, channel)
    large, small = await client.read_until(2)
    await client.close()
    assert large.data == '{"n":0,"pad":"' + "x" * 200_000 + '"}'
    assert small.data == '{"n":0,"pad":"xxxxxxxxxx"}'


async def test_client_that_reconnects_gets_what_it_missed_and_then_goes_on(shared_server: Server, channel: str) -> None:
    client = await StreamClient(shared_server.port, f"/events/{channel}/").connect()
    await client.read_control(1)
    first = await publish(shared_server, channel)
    await client.read_until(1)
    client.abort()
    missed = await publish(shared_server, channel, n=30)
    await client.connect()
    await client.read_until(31)
    while client.control[-1].id != str(missed):  # the checkpoint that ends the replay
        assert await client.read()
    live = await publish(shared_server, channel)
    await client.read_until(32)
    await client.close()
    assert [event.id for event in client.events] == [str(position) for position in (first, *range(first + 1, live + 1))]
