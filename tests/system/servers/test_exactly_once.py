"""Every client receives every message of its channels exactly once and in order, however its connections end.

Fifty clients disconnect at random, also in the middle of an event. Eight processes publish with and without
transactions, and roll some of them back. At the end, each client's events are compared with the rows of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import random

import pytest

from tests.support.clients import StreamClient
from tests.support.sites import Server, Site, finish
from tests.system.servers.conftest import DIRECT, STOCK
from tests.system.servers.holdings import publish

pytestmark = [pytest.mark.once, pytest.mark.slow]

CLIENTS = 50
PUBLISHERS = 8
SECONDS = 3.0
CHANNELS = [f"public.{name}" for name in ("a", "b", "c", "d")]

PUBLISH = """
import random, sys, time
from django.db import transaction
from streams import NewMessage, publish, publish_many
publisher, seconds, *channels = sys.argv[1:]
number = 0
def message():
    global number
    number += 1
    return random.choice(channels), f"{publisher}:{number}\\n" + "x" * random.choice([0, 10, 1000, 30_000])
end = time.monotonic() + float(seconds)
while time.monotonic() < end:
    what = random.choice(["one", "many", "commit", "commit", "rollback"])
    if what == "one":
        publish(*message())
    elif what == "many":
        publish_many([NewMessage(*message()) for _ in range(random.randint(1, 5))])
    else:
        try:
            with transaction.atomic():
                for _ in range(random.randint(1, 4)):
                    publish(*message())
                    time.sleep(random.choice([0, 0, 0.02]))
                if what == "rollback":
                    raise LookupError
        except LookupError:
            pass
    time.sleep(random.uniform(0, 0.15))
"""


class Roamer:
    """A client that disconnects at random, and reconnects to a random server with its Last-Event-ID."""

    def __init__(self, servers: list[Server], number: int) -> None:
        self.servers = servers
        self.channels = random.sample(CHANNELS, number % len(CHANNELS) + 1)
        query = "&".join(f"channel={name}" for name in self.channels)
        self.client = StreamClient(0, f"/events/?{query}")
        self.connections = 0

    async def connect(self) -> None:
        """Connect to a random server, and try again until a stream has started."""
        while True:
            self.client.port = random.choice(self.servers).port
            try:
                await self.client.connect()
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(random.uniform(0, 0.2))
                continue
            assert self.client.status == 200
            self.connections += 1
            if self.client.control or await self.client.read_control(1):
                return

    async def leave(self) -> None:
        way = random.choice(["fin", "rst", "within an event"])
        if way == "within an event":
            await asyncio.wait([asyncio.create_task(self.client.bite(random.randint(1, 60)))], timeout=1.0)
        if way == "fin":
            await self.client.close()
        else:
            self.client.abort()

    async def roam(self, over: asyncio.Event) -> None:
        while not over.is_set():
            await self.connect()
            await self.client.read_for(random.choice([0, 0.01, random.uniform(0, 1.5)]))
            await self.leave()
            await asyncio.sleep(random.choice([0, random.uniform(0, 0.5)]))

    async def read_all(self, site: Site) -> None:
        """Reconnect, read all remaining events, and compare all events with the log."""
        start = int(self.client.control[0].id)
        names = ", ".join(f"'{name}'" for name in self.channels)
        wanted = f"channel IN ({names}) AND position > {start}"
        rows = site.execute(f"SELECT position, data FROM streams_message WHERE {wanted} ORDER BY position")
        await self.connect()
        with contextlib.suppress(TimeoutError):  # the comparison below reports missing events
            await self.client.read_until(len(rows))
        await self.client.read_for(0.5)  # long enough for a repeated event to arrive
        assert [(event.id, event.data) for event in self.client.events] == [(str(p), data) for p, data in rows]
        assert {event.event for event in self.client.control} == {"stream-checkpoint"}
        await self.client.close()


async def publish_within(server: Server, over: asyncio.Event) -> None:
    """Publish from the server's own process too. Its hub is notified of these messages, and polls for the others."""
    while not over.is_set():
        with contextlib.suppress(OSError, http.client.HTTPException):  # while it is down
            await publish(server, random.choice(CHANNELS), n=random.randint(1, 3))
        await asyncio.sleep(random.uniform(0, 0.1))


async def run(site: Site, servers: list[Server]) -> list[Roamer]:
    """Let the clients roam until all publishers have finished."""
    over = asyncio.Event()
    publishers = [site.script(PUBLISH, str(number), str(SECONDS), *CHANNELS) for number in range(PUBLISHERS)]
    roamers = [Roamer(servers, number) for number in range(CLIENTS)]
    async with asyncio.TaskGroup() as tasks:
        for roamer in roamers:
            tasks.create_task(roamer.roam(over))
        for server in servers:
            tasks.create_task(publish_within(server, over))
        await asyncio.gather(*(asyncio.to_thread(finish, publisher) for publisher in publishers))
        over.set()
    return roamers


async def assert_exactly_once(site: Site, roamers: list[Roamer]) -> None:
    await asyncio.gather(*(roamer.read_all(site) for roamer in roamers))
    rows = site.execute("SELECT position FROM streams_message ORDER BY position")
    assert [position for (position,) in rows] == list(range(1, len(rows) + 1))
    # Check that the test did enough to be meaningful.
    assert len(rows) > 100
    assert sum(roamer.connections for roamer in roamers) > 2 * CLIENTS


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
async def test_clients_that_reconnect_at_random_miss_and_repeat_nothing(site: Site, server: str) -> None:
    servers = [site.settings(POLL_SECONDS=0.05).serve(server)]
    await assert_exactly_once(site, await run(site, servers))


async def test_clients_that_roam_between_servers_that_are_killed_miss_and_repeat_nothing(site: Site) -> None:
    servers = [site.serve("uvicorn", DIRECT), site.serve("daphne", STOCK)]

    async def kill() -> None:
        for server in servers:
            await asyncio.sleep(SECONDS / 2)
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start)

    killing = asyncio.create_task(kill())
    roamers = await run(site, servers)
    await killing
    await assert_exactly_once(site, roamers)
