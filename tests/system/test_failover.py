"""A database that falls silent: connections to it stay open, but no answer arrives.

This happens after a failover, when a machine has vanished, or when a firewall has forgotten its connections.
"""

from __future__ import annotations

import asyncio
import http.client
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from django.db import OperationalError

from streams import apublish, log, publish
from streams.models import Message
from streams.protocol.events import NewMessage
from streams.runtime.executor import DatabaseTimeout
from tests.support import clients
from tests.support.clients import StreamClient
from tests.support.services.postgres import PostgresServer
from tests.support.services.proxy import Proxy
from tests.support.sites import Server, Site, finish
from tests.system.servers.holdings import holdings

pytestmark = [pytest.mark.once, pytest.mark.slow]

# The time limit for a read or a write of the log.
TIMEOUT_SECONDS = 2.0

# Everything must work again within this time. It covers a time limit, the pause after a failure, and a second limit.
RECOVERY_SECONDS = 20.0


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[Proxy]:
    running = Proxy(postgres.port)
    yield running
    running.close()


@pytest.fixture
def site(postgres_site: Site, proxy: Proxy) -> Site:
    """A site whose processes reach their database through the proxy. The test itself reaches it directly."""
    name = postgres_site.database_url.rpartition("/")[2]
    postgres_site.env["DATABASE_URL"] = f"postgresql://streams@127.0.0.1:{proxy.port}/{name}"
    return postgres_site.settings(DATABASE_TIMEOUT_SECONDS=TIMEOUT_SECONDS, HEARTBEAT_SECONDS=0.5)


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    yield
    clients.leave_all()


async def stream(server: Server) -> StreamClient:
    client = await StreamClient(server.port, "/events/news/").connect()
    await client.read_control(1)
    return client


async def reads(client: StreamClient, data: str) -> None:
    while not client.events or client.events[-1].data != data:
        assert await client.read(), "the stream has ended"


async def get(server: Server, path: str) -> int:
    """Return the status, or 0 if there was no answer in time."""

    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=RECOVERY_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except TimeoutError:
            return 0
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def publish_elsewhere(site: Site, text: str) -> None:
    """Publish from a process that connects directly to the database."""
    env = {**site.env, "DATABASE_URL": site.database_url}
    there = Site(site.database_url, site.folder)
    there.env = env
    await asyncio.to_thread(there.manage, "publish", "news", text)


async def test_process_recovers_when_old_connections_stay_silent(site: Site, proxy: Proxy) -> None:
    server = site.serve()
    live = await stream(server)
    assert await get(server, "/test/burst/?channel=news") == 200
    assert len(await live.read_until(1)) == 1

    proxy.fall_silent()
    assert await get(server, "/test/burst/?channel=news") == 500, "no error in time"
    proxy.forward_new()

    async with asyncio.timeout(RECOVERY_SECONDS):
        while await get(server, "/test/burst/?channel=news") != 200:
            pass
        await publish_elsewhere(site, "after")
        await reads(live, "after")
        new = await stream(server)
        await publish_elsewhere(site, "again")
        await reads(live, "again")
        await reads(new, "again")
    async with asyncio.timeout(RECOVERY_SECONDS):
        while proxy.open(silent=True):
            await holdings(server)  # collects garbage: a failed attempt to connect is closed with its traceback
    # It is logged once in each outage. On a busy machine, a slow answer can look like a second outage.
    assert 1 <= server.log.read_text().count("does not answer; its connections are closed") <= 2


async def test_outage_of_silence_does_not_pile_up_threads(site: Site, proxy: Proxy) -> None:
    """Streams and health checks keep querying while new connections are silent as well."""
    server = site.settings(DATABASE_TIMEOUT_SECONDS=0.5).serve()
    live = await stream(server)
    before = (await holdings(server))["threads"]
    proxy.fall_silent()
    for _ in range(4):
        statuses = await asyncio.gather(*(get(server, "/api/health/ready") for _ in range(8)))
        assert set(statuses) == {503}
    assert (await holdings(server))["threads"] < before + 20
    proxy.forward_new()
    async with asyncio.timeout(RECOVERY_SECONDS + 10):
        while await get(server, "/api/health/ready") != 200:
            await asyncio.sleep(0.2)
        await publish_elsewhere(site, "after")
        await reads(live, "after")


async def test_database_that_was_stopped_is_used_again(site: Site) -> None:
    """After SIGSTOP, a server answers everything at SIGCONT, including queries of abandoned threads."""
    server = site.serve()
    live = await stream(server)
    assert site.postgres is not None
    with site.postgres.hanging():
        assert await get(server, "/test/burst/?channel=news") == 500
        assert await get(server, "/api/health/ready") == 503
    async with asyncio.timeout(RECOVERY_SECONDS):
        while await get(server, "/api/health/ready") != 200:
            await asyncio.sleep(0.2)
        assert await get(server, "/test/burst/?channel=news") == 200
        await live.read_until(1)
    positions = [row[0] for row in site.execute("SELECT position FROM streams_message ORDER BY position")]
    assert positions == list(range(1, len(positions) + 1))


def publish_after_one_that_hangs() -> None:
    """Let a request's thread hang while it writes for all publishers, and print a line when apublish works."""
    real = log.store
    errors: list[Exception] = []

    def store(messages: Sequence[NewMessage], *, wait_for_keys: bool = True) -> list[Message]:
        if threading.current_thread() is stuck:
            print("writing", flush=True)
            sys.stdin.readline()  # until the connection is silent
        return real(messages, wait_for_keys=wait_for_keys)

    def hang() -> None:
        try:
            publish("news", "stuck")
        except (DatabaseTimeout, OperationalError) as error:
            errors.append(error)

    log.store = store
    stuck = threading.Thread(target=hang, daemon=True)

    async def main() -> None:
        stuck.start()
        await asyncio.sleep(1)
        async with asyncio.timeout(RECOVERY_SECONDS):
            while True:
                try:
                    await apublish("news", "x")
                    break
                except DatabaseTimeout:
                    pass
        print("published", flush=True)
        await asyncio.to_thread(stuck.join, RECOVERY_SECONDS)
        assert errors, "shutting down the connection did not wake the thread that hung"

    asyncio.run(main())


def test_apublish_does_not_wait_for_a_request_that_hangs(site: Site, proxy: Proxy) -> None:
    """publish() in a site's own thread has no time limit. It must not prevent the others from publishing."""
    process = site.call(publish_after_one_that_hangs)
    process.expect_line("writing")
    proxy.fall_silent()
    proxy.forward_new()
    process.write_line()
    process.expect_line("published")
    finish(process)
