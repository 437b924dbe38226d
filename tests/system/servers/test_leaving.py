"""The server notices every client that leaves, however and whenever it does, and releases its resources."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable

import pytest

from tests.support.clients import StreamClient
from tests.support.sites import Server, Site
from tests.system.servers.holdings import holdings, holds, holds_no_more_than, publish

pytestmark = pytest.mark.once

Leave = Callable[[StreamClient], Awaitable[None]]


async def leave_by_fin(client: StreamClient) -> None:
    await client.close()


async def leave_by_rst(client: StreamClient) -> None:
    client.abort()


async def leave_without_a_word(client: StreamClient) -> None:
    try:
        client.vanish()
    except PermissionError:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            raise
        pytest.skip("Closing a socket without sending a packet needs CAP_NET_ADMIN.")


ways = pytest.mark.parametrize("leave", [leave_by_fin, leave_by_rst, leave_without_a_word])


async def connect(server: Server, channel: str, count: int) -> list[StreamClient]:
    clients = [await StreamClient(server.port, f"/events/{channel}/").connect() for _ in range(count)]
    for client in clients:
        await client.read_control(1)
    return clients


@ways
async def test_client_that_leaves_a_quiet_stream_is_noticed(shared_server: Server, channel: str, leave: Leave) -> None:
    stays, *leavers = await connect(shared_server, channel, 6)
    await holds(shared_server, subscribers=6)
    for client in leavers:
        await leave(client)
    await holds(shared_server, subscribers=1, streams=1)
    await publish(shared_server, channel)
    assert len(await stays.read_until(1)) == 1
    await leave(stays)
    await holds(shared_server, subscribers=0, streams=0)


@ways
async def test_client_that_leaves_in_mid_stream_is_noticed(shared_server: Server, channel: str, leave: Leave) -> None:
    stays, *leavers = await connect(shared_server, channel, 6)
    publishing = asyncio.create_task(publish_often(shared_server, channel))
    for client in leavers:
        await client.read_until(random.randint(1, 30))
        await leave(client)
    await stays.read_until(100)
    await publishing
    await holds(shared_server, subscribers=1, streams=1)
    await stays.read_until(400)
    await leave(stays)
    await holds(shared_server, subscribers=0, streams=0)
    positions = [int(event.id) for event in stays.events]
    assert positions == list(range(positions[0], positions[0] + 400))


async def publish_often(server: Server, channel: str) -> None:
    for _ in range(20):
        await publish(server, channel, n=20, bytes=1000)


async def test_clients_that_leave_before_their_stream_begins_leave_nothing_behind(
    shared_site: Site, shared_server: Server, channel: str
) -> None:
    cookie = await asyncio.to_thread(shared_server.log_in, "leaver")
    [(pk,)] = shared_site.execute("SELECT id FROM auth_user WHERE username = 'leaver'")
    requests = [
        f"GET /events/{channel}/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        # The session is read in a thread, so this request takes longer to be admitted.
        f"GET /events/user.{pk}/ HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n",
        f"GET /events/{channel}/?last_event_id=0&replay=5 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"GET /events/{channel}/ HTTP/1.1\r\nHost: localho",
        "",
    ]
    [warm] = await connect(shared_server, channel, 1)
    await warm.close()
    await holds(shared_server, subscribers=0, streams=0)
    before = await holdings(shared_server)
    for _ in range(4):
        await asyncio.gather(*(ask_and_leave(shared_server, request) for request in requests * 8))
    await holds_no_more_than(shared_server, before)

    # The server still delivers events.
    [client] = await connect(shared_server, channel, 1)
    await publish(shared_server, channel)
    await client.read_until(1)
    await client.close()
    assert "Traceback" not in shared_server.log.read_text()


async def ask_and_leave(server: Server, request: str) -> None:
    await asyncio.sleep(random.uniform(0, 0.05))
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request.encode())
    await asyncio.sleep(random.choice([0, 0.001, random.uniform(0, 0.05)]))
    if random.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()
