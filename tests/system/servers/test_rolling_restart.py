"""A rolling restart: four servers behind nginx get SIGTERM and are started again, one after another.

The clients never leave by themselves, and no server waits for them. No publisher gets an error, and no client misses
or repeats an event.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.services import missing, nginx
from tests.support.services.postgres import PostgresServer
from tests.system.chaos import judge
from tests.system.chaos.listeners import Listener
from tests.system.chaos.publishers import CHANNELS, KEYED, text
from tests.system.chaos.run import all_sequenced, read_audit
from tests.system.chaos.world import SETTINGS, World

pytestmark = [pytest.mark.once, pytest.mark.slow]

CLIENTS = 40
PUBLISHERS = 2


@pytest.fixture
def world(postgres: PostgresServer, migrated_postgres: str) -> Iterator[World]:
    if nginx.program() is None:
        missing("nginx", "nginx")
    with World(1, postgres=postgres, template=migrated_postgres) as entered:
        yield entered


async def publish_until(over: asyncio.Event, world: World, number: int) -> list[str]:
    """Publish by POST, and return the texts. Every request must get a 200."""
    done: list[str] = []
    while not over.is_set():
        done.append(text(f"post-{number}", len(done), KEYED))
        path = f"/test/publish/?channel={CHANNELS[len(done) % len(CHANNELS)]}"
        await asyncio.to_thread(world.get, path, done[-1].encode(), Idempotency_Key=done[-1])
        await asyncio.sleep(0.02)
    return done


async def restart_each(world: World) -> list[float]:
    """Return the seconds that each server took to exit."""
    taken = []
    for server in world.servers:
        await asyncio.sleep(1)
        began = time.monotonic()
        await asyncio.to_thread(server.stop, signal.SIGTERM, patient=True)
        taken.append(time.monotonic() - began)
        await asyncio.to_thread(server.start)
    return taken


async def test_a_rolling_restart_fails_no_publish_and_loses_and_repeats_no_event(world: World) -> None:
    for number in range(PUBLISHERS):
        await asyncio.to_thread(world.publish, number)
    over = asyncio.Event()
    listeners = [Listener(world.nginx.port, number, world.seed) for number in range(CLIENTS)]
    staying = [asyncio.create_task(listener.stay(over)) for listener in listeners]
    publishing = [asyncio.create_task(publish_until(over, world, number)) for number in range(2)]
    try:
        taken = await restart_each(world)
    finally:
        over.set()
    posted = [text for texts in await asyncio.gather(*publishing) for text in texts]
    await asyncio.gather(*staying)
    await asyncio.to_thread(world.stop_publishing)
    async with Listener(world.nginx.port, CLIENTS, world.seed).staying():
        assert await all_sequenced(world, 30)
    audit = await asyncio.to_thread(read_audit, world)
    await asyncio.gather(*(listener.settle(audit.newest, 30) for listener in listeners))
    audit = await asyncio.to_thread(read_audit, world, audit.horizon)
    outcome = judge.Outcome([*posted, *world.returned()], await asyncio.to_thread(world.committed))
    assert judge.judge(audit, [listener.record for listener in listeners], outcome) == []
    assert len(posted) > 20
    assert max(taken) < 10, taken  # a server that waited for its clients would take more than a minute
    waits = [wait for listener in listeners for wait in listener.waits]
    assert len(waits) >= CLIENTS, "each client should be disconnected at least once"
    retry = SETTINGS["RETRY_MILLISECONDS"] / 1000
    assert all(0.5 * retry <= wait <= 1.5 * retry for wait in waits), "each should receive a time to reconnect"
    assert len(set(waits)) > CLIENTS // 4, "the times should have jitter"
