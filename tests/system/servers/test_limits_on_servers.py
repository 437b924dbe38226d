"""Limits on open streams on real servers: in one process, and across two processes that share a database."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from tests.support.clients import StreamClient
from tests.support.sites import Server, Site
from tests.system.servers.conftest import STOCK
from tests.system.servers.holdings import holds

pytestmark = pytest.mark.once

# uvicorn itself applies X-Forwarded-For to requests from these addresses. No request here comes from this one.
AS_IT_IS = {"FORWARDED_ALLOW_IPS": "192.0.2.1"}


async def come(server: Server, **headers: str) -> StreamClient:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await StreamClient(server.port, "/events/news/", named).connect()


async def serves(server: Server, **headers: str) -> bool:
    """Return True if the server accepts one more stream. The stream is closed again at once."""
    client = await come(server, **headers)
    if client.status == 200:
        client.abort()
        await asyncio.sleep(0.05)
    return client.status == 200


async def until(served: bool, server: Server, **headers: str) -> None:
    async with asyncio.timeout(20):
        while await serves(server, **headers) is not served:
            await asyncio.sleep(0.05)


async def refusal(client: StreamClient) -> tuple[int, str, str]:
    """Return the status, the code and the message of a refused stream."""
    assert int(client.response_headers["retry-after"]) > 0
    error = json.loads(await client._reader.readexactly(int(client.response_headers["content-length"])))["error"]
    return client.status, error["code"], error["message"]


async def test_one_address_with_many_connections_has_its_streams_and_others_have_theirs(
    sqlite_site: Site,
) -> None:
    site = sqlite_site.settings(MAX_STREAMS_PER_ADDRESS=50, TRUSTED_PROXIES=["127.0.0.1"])
    server = site.serve("uvicorn", STOCK, **AS_IT_IS)
    some_at_a_time = asyncio.Semaphore(100)
    served: list[StreamClient] = []
    refused: list[StreamClient] = []

    async def come_once() -> None:
        async with some_at_a_time:
            client = await come(server)
            (served if client.status == 200 else refused).append(client)
            if client.status != 200:
                assert client.status == 429
                client.abort()

    await asyncio.gather(*(come_once() for _ in range(300)))
    assert (len(served), len(refused)) == (50, 250)
    status, code, message = await refusal(await come(server))
    assert (status, code) == (429, "too-many-streams-of-address")
    assert "50 open streams" in message
    assert "STREAMS['MAX_STREAMS_PER_ADDRESS']" in message

    # A client behind the trusted proxy counts under its own address, and cannot pretend to have another.
    other = await come(server, X_Forwarded_For="203.0.113.7, 198.51.100.9")
    assert other.status == 200
    assert (await other.read_control(1))[0].event == "stream-checkpoint"
    assert not await serves(server, X_Forwarded_For="198.51.100.9, 127.0.0.1, unknown")

    # Slots are released, however the clients leave.
    for client in served[:10]:
        client.abort()
    for client in served[10:20]:
        await client.close()
    await holds(server, streams=31)
    again = await asyncio.gather(*(come(server) for _ in range(25)))
    assert sorted(client.status for client in again) == [200] * 20 + [429] * 5


async def test_limit_over_two_processes_holds_within_a_beat(site: Site) -> None:
    site.settings(PRESENCE_SECONDS=0.3, MAX_STREAMS=5)
    one, two = (site.serve("uvicorn", STOCK, **AS_IT_IS) for _ in range(2))
    ones, twos = [await come(one) for _ in range(3)], [await come(two) for _ in range(2)]
    assert {client.status for client in (*ones, *twos)} == {200}
    await until(False, one)
    await until(False, two)
    for server in (one, two):
        status, code, message = await refusal(await come(server))
        assert (status, code) == (429, "too-many-streams")
        assert "5 streams (STREAMS['MAX_STREAMS'])" in message

    # A client leaves the first process. The second process learns of it from the next presence update.
    ones.pop().abort()
    await until(True, two)
    await until(True, one)

    # A process that stops cleanly clears its presence row. The row of a killed process expires.
    one.stop(signal.SIGTERM)
    twos += [client for client in [await come(two)] if client.status == 200]
    async with asyncio.timeout(20):
        while len(twos) < 5:
            client = await come(two)
            twos += [client] if client.status == 200 else []
            await asyncio.sleep(0.05)
    one.start()
    assert await serves(one)  # its first stream: it has not read the other process's row yet
    await until(False, one)
    two.stop(signal.SIGKILL)
    await until(True, one)
