"""Many idle streams of logged-in users, on PostgreSQL: they hold few resources, and release all of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import psutil
import pytest

from tests.support.clients import StreamClient
from tests.support.services import wait_until
from tests.support.services.postgres import PostgresServer
from tests.support.sites import Server, Site
from tests.system.servers.conftest import DIRECT, OURS, STOCK
from tests.system.servers.holdings import Holdings, holdings, holds, publish, until

pytestmark = [pytest.mark.once, pytest.mark.slow]

MAX_THREADS = 15
MAX_CONNECTIONS = 11  # those of the log threads, some of which have just admitted the streams
MEBIBYTE = 2**20


@pytest.mark.parametrize(
    ("server", "app", "streams", "rounds"),
    [
        ("uvicorn", STOCK, 300, 3),
        ("uvicorn", OURS, 100, 1),
        ("uvicorn", DIRECT, 300, 3),
        ("daphne", STOCK, 100, 1),
        ("daphne", OURS, 100, 1),
    ],
)
async def test_idle_streams_hold_neither_threads_nor_connections(
    postgres_site: Site, postgres: PostgresServer, server: str, app: str, streams: int, rounds: int
) -> None:
    running = postgres_site.settings(HEARTBEAT_SECONDS=1, MAX_STREAMS_PER_USER=1000).serve(server, app)
    database = postgres_site.database_url.rpartition("/")[2]
    cookie = await asyncio.to_thread(running.log_in, "idler")
    [(pk,)] = postgres_site.execute("SELECT id FROM auth_user WHERE username = 'idler'")
    channel = f"user.{pk}"
    stranger = await StreamClient(running.port, f"/events/{channel}/").connect()
    assert stranger.status == 403  # so that the streams below are admitted by their session alone
    await stranger.close()

    before = await settled(running, lambda now: now["streams"] == 0)
    memory = []
    for number in range(rounds):
        clients = await open_streams(running, channel, cookie, streams)
        await holds(running, subscribers=streams, streams=streams)
        if number == rounds - 1:
            await assert_all_live(running, channel, clients)
            threads, connections = await most_held(running, postgres, database)
            assert threads <= MAX_THREADS
            assert connections <= MAX_CONNECTIONS
        for client in clients:
            client.abort() if random.random() < 0.5 else await client.close()
        await holds(running, subscribers=0, streams=0)
        memory.append((await holdings(running))["rss"])

    await settled(running, lambda now: all(now[key] == before[key] for key in RESOURCES))
    # The server has closed them; PostgreSQL's own processes take a moment to end.
    await asyncio.to_thread(wait_until, lambda: postgres.connections(database) == 0, "the end of all connections")
    if rounds > 2:
        # The first two rounds warm up the allocator. If the memory were not freed, 300 streams would add about 15 MiB.
        assert max(memory[2:]) - memory[1] <= 10 * MEBIBYTE


RESOURCES = ("tasks", "fds", "threads", "subscribers", "streams", "objects")


async def settled(server: Server, condition: Callable[[Holdings], bool]) -> Holdings:
    """Wait until the condition is met and the log's threads, which linger for seconds, have ended. Return the state."""
    return await until(
        server, lambda now: condition(now) and "streams-log" not in now["python_threads"], "the idle state"
    )


async def open_streams(server: Server, channel: str, cookie: str, number: int) -> list[StreamClient]:
    some_at_a_time = asyncio.Semaphore(50)

    async def open_one() -> StreamClient:
        async with some_at_a_time:
            client = await StreamClient(server.port, f"/events/{channel}/", {"Cookie": cookie}).connect()
            assert client.status == 200
            await client.read_control(1)
            return client

    return await asyncio.gather(*(open_one() for _ in range(number)))


async def assert_all_live(server: Server, channel: str, clients: list[StreamClient]) -> None:
    last = await publish(server, channel)
    await asyncio.gather(*(client.read_until(1) for client in clients))
    assert {client.last_event_id for client in clients} == {str(last)}


async def most_held(server: Server, postgres: PostgresServer, database: str) -> tuple[int, int]:
    """Return the highest numbers of threads and PostgreSQL connections while the streams send only heartbeats.

    The process is measured from outside, because a request would take a thread.
    """
    await until(server, lambda now: now["threads"] <= MAX_THREADS, "the end of the extra threads")
    process = psutil.Process(server.pid)
    threads = connections = 0
    for _ in range(30):
        threads = max(threads, process.num_threads())
        connections = max(connections, await asyncio.to_thread(postgres.connections, database))
        await asyncio.sleep(0.1)
    return threads, connections
