"""Messages published in one server process reach the clients of another through the notifier alone.

The processes poll every ten minutes, so that no message arrives by polling.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.clients import StreamClient
from tests.support.services.postgres import PostgresServer
from tests.support.services.redis import RedisServer
from tests.support.sites import Server, Site, copy_sqlite
from tests.system.servers.holdings import publish

pytestmark = pytest.mark.once

NOTIFIERS = {
    "postgres": "streams.notifiers.postgres.PostgresNotifier",
    "redis": "streams.notifiers.channel_layer.ChannelLayerNotifier",
}
OUTAGE_SECONDS = 8.0  # long enough for several attempts of the listeners

Setup = tuple[Site, Server, Server, PostgresServer | RedisServer]


@pytest.fixture(scope="module", params=NOTIFIERS)
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """A site with two servers, and the server that their notifier needs."""
    folder = tmp_path_factory.mktemp("site")
    # With fsync, because without it a new epoch of the log would start after the outage, and log a warning.
    servers = {"postgres": "durable_postgres", "redis": "redis"}
    needed: PostgresServer | RedisServer = request.getfixturevalue(servers[request.param])
    if isinstance(needed, PostgresServer):
        database = needed.create_database(template=request.getfixturevalue("migrated_durable_postgres"))
        site = Site(needed.dsn(database), folder, needed)
    else:
        copy_sqlite(request.getfixturevalue("migrated_sqlite"), folder / "db.sqlite3")
        site = Site(f"sqlite:///{folder / 'db.sqlite3'}", folder)
        site.env["REDIS_URL"] = needed.url
    site.settings(NOTIFIER={"BACKEND": NOTIFIERS[request.param]}, POLL_SECONDS=600, HEARTBEAT_SECONDS=0.5)
    yield site, site.serve(), site.serve(), needed
    site.close()


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    """Close the connections that a test's clients have left open."""
    yield
    clients.leave_all()


async def watch(server: Server, channel: str) -> StreamClient:
    client = await StreamClient(server.port, f"/events/{channel}/").connect()
    await client.read_control(1)
    return client


async def listening(server: Server, other: Server, channel: str) -> StreamClient:
    """Connect a client to `server`, and publish until a notice arrives. The first stream does not wait for that."""
    client = await watch(server, channel)
    while not client.events:
        await publish(other, channel)
        await client.read_for(0.3)
    await client.read_for(0.5)
    client.events.clear()
    return client


async def test_what_one_process_publishes_reaches_the_others_clients(setup: Setup) -> None:
    site, one, other, _ = setup
    client = await listening(one, other, "public.live")
    for number in range(1, 4):
        await publish(other, "public.live", n=2)
        assert len(await client.read_until(2 * number)) == 2 * number
    large = await publish(other, "public.live", bytes=100_000)
    await client.read_until(7)
    assert client.last_event_id == str(large)
    site.manage("publish", "public.live", "from a process that ends at once")
    assert (await client.read_until(8))[-1].data == "from a process that ends at once"


@pytest.mark.slow
async def test_outage_closes_no_stream_loses_nothing_and_is_logged_once(setup: Setup) -> None:
    site, one, other, needed = setup
    client = await listening(one, other, "public.outage")
    second = await listening(other, one, "public.outage")
    await client.read_for(0.5)
    client.events.clear()
    before = (site.folder / "uvicorn.log").read_text()
    positions = [await publish(other, "public.outage")]
    await client.read_until(1)
    await asyncio.to_thread(needed.stop)
    try:
        if isinstance(needed, RedisServer):  # the log is on SQLite, so that publishing works during the outage
            positions += [await publish(other, "public.outage") for _ in range(5)]
        heartbeats = client.raw.count(b"\n:\n")
        await client.read_for(OUTAGE_SECONDS)
        assert client.raw.count(b"\n:\n") > heartbeats, "no heartbeat came during the outage"
    finally:
        await asyncio.to_thread(needed.start)
    positions.append(await publish(other, "public.outage"))
    for watching in (client, second):
        await watching.read_until(len(positions))  # the hub reads the log when the listener works again
        await watching.read_for(0.5)
        assert [int(event.id) for event in watching.events] == positions
    client = await listening(one, other, "public.after")  # both processes work again
    assert client.status == 200
    logged = (site.folder / "uvicorn.log").read_text().removeprefix(before)
    assert logged.count("ERROR streams.hub: The notifier's listener failed") == 2, "once in each process"
    assert logged.count("ERROR streams.publishing: The notifier failed") <= 2
    problems = re.findall(r" (?:WARNING|ERROR|CRITICAL) [\w.]+: .*", logged)
    # Each process logs one more line at most, about the database or about sending notices.
    assert len(problems) <= 4, problems


async def test_another_log_on_the_same_redis_under_the_same_key_is_not_heard(
    redis: RedisServer, migrated_sqlite: Path, tmp_path: Path
) -> None:
    """For example a staging copy of the site, or a developer's tests. The same positions hold other messages there."""
    sites = []
    for name in ("ours", "theirs"):
        (folder := tmp_path / name).mkdir()
        copy_sqlite(migrated_sqlite, folder / "db.sqlite3")
        sites.append(Site(f"sqlite:///{folder / 'db.sqlite3'}", folder))
        sites[-1].env["REDIS_URL"] = redis.url
        sites[-1].settings(NOTIFIER={"BACKEND": NOTIFIERS["redis"]}, POLL_SECONDS=600, HEARTBEAT_SECONDS=0.5)
    ours, theirs = sites
    try:
        client = await watch(ours.serve(), "public.copied")
        head = 0
        while not client.events:
            ours.manage("publish", "public.copied", "is it heard?")
            head += 1
            await client.read_for(0.3)
        for number in range(head + 2):
            theirs.manage("publish", "public.copied", f"theirs {number}")
        ours.manage("publish", "public.copied", "ours")
        while client.last_event_id != str(head + 1):
            assert await client.read()
        assert [event.data for event in client.events] == ["is it heard?"] * head + ["ours"]
    finally:
        for site in sites:
            site.close()
