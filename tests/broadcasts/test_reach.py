"""The count of the connections that received a broadcast."""

from __future__ import annotations

import asyncio

import pytest
from django.test import override_settings

from streams.broadcasts import lifecycle, reach
from streams.models import Broadcast, Delivery
from tests.broadcasts.support import database, draft, prepare
from tests.support.clients import StreamClient, leave_all
from tests.support.services import wait_until
from tests.support.sites import Site, finish


def send_first() -> None:
    print(lifecycle.send(Broadcast.objects.get().pk, by=None).audience_size)


@pytest.mark.once
async def test_reached_connections_of_processes_are_added(site: Site) -> None:
    await asyncio.to_thread(finish, site.call(prepare, "no", "news public.b"))
    servers = [site.settings(POLL_SECONDS=0.3, PRESENCE_SECONDS=0.3).serve() for _ in range(2)]
    paths = ["/events/news/", "/events/public.b/", "/events/?channel=news&channel=public.b", "/events/public.other/"]
    clients = [await StreamClient(server.port, path).connect() for server in servers for path in paths]
    for client in clients:
        await client.read_control(1)
    connections = "SELECT sum(connections) FROM streams_node"
    await asyncio.to_thread(wait_until, lambda: site.execute(connections) == [(8,)], "both processes' rows")
    audience = await asyncio.to_thread(finish, site.call(send_first))
    assert int(audience) == 8  # a connection with both channels counts for each channel
    reading = [asyncio.create_task(client.read_until(1)) for client in clients if "other" not in client.path]
    await asyncio.gather(*reading)
    reached = "SELECT coalesce(sum(connections), 0) FROM streams_delivery"
    await asyncio.to_thread(wait_until, lambda: site.execute(reached) == [(6,)], "the count of the reached connections")
    # A client that disconnects still counts.
    leave_all()
    await asyncio.sleep(1)
    assert site.execute(reached) == [(6,)]


@pytest.mark.once
async def test_stalled_client_is_not_counted(sqlite_site: Site) -> None:
    await asyncio.to_thread(finish, sqlite_site.call(prepare, "no"))
    server = sqlite_site.settings(POLL_SECONDS=0.3).serve()
    reading_client = await StreamClient(server.port, "/events/news/").connect()
    await reading_client.read_control(1)
    stalled_client = await StreamClient(server.port, "/events/news/").connect(receive_buffer=4096)
    # More bytes than the kernel buffers for one connection.
    await asyncio.to_thread(server.json, "/test/burst/?n=60&bytes=200000")
    await reading_client.read_until(60)
    await asyncio.to_thread(finish, sqlite_site.call(send_first))
    await reading_client.read_until(61)
    reached = "SELECT coalesce(sum(connections), 0) FROM streams_delivery"
    await asyncio.to_thread(wait_until, lambda: sqlite_site.execute(reached) != [(0,)], "the count")
    await asyncio.sleep(1)
    assert sqlite_site.execute(reached) == [(1,)]
    assert stalled_client.events == []


@database
def test_reached_is_the_sum_over_processes() -> None:
    made = draft()
    assert made.reached == 0
    for node, n in (("a", 3), ("b", 4)):
        Delivery.objects.create(broadcast=made, node=node, connections=n)
    assert made.reached == 7


def test_period_is_short_enough() -> None:
    for poll, period in ((0.3, 0.3), (1, 1), (600, 6)):
        with override_settings(STREAMS={"POLL_SECONDS": poll}):
            assert reach.period_seconds() == period
