"""A hub continues for a while after its last subscriber has left, so that it serves the next one at once.

In a test run, a hub stops with its last subscriber. Therefore each of these tests starts its own processes.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import threading
import time

import pytest
from django.db import Error

from streams import log, publish
from streams.delivery import hub
from streams.delivery.hub import Hub
from streams.delivery.subscriber import Subscriber
from streams.presence import counter
from streams.protocol.events import check
from streams.publishing.publish import NewMessage
from streams.runtime import executor
from tests.support.clients import StreamClient
from tests.support.sites import Site, finish

pytestmark = pytest.mark.once


def append_silently() -> None:
    """Publish as another process would, with a notice that is lost."""
    with log.own_transaction():
        log.append([check(NewMessage("news", "elsewhere"))])
        log.sequence()


async def visit(chunks: int = 1, **options: str) -> bytes:
    """Open a stream, read the first chunks, and leave."""
    subscriber = Subscriber(["news"], **options)
    try:
        await subscriber.open()
        return b"".join([await anext(subscriber) for _ in range(chunks)])
    finally:
        await subscriber.aclose()


def first_id(chunk: bytes) -> int:
    [id] = re.findall(rb"^id: (\d+)$", chunk, re.MULTILINE)
    return int(id)


def log_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "streams-log"]


def come_back() -> None:
    async def main() -> None:
        assert first_id(await visit()) == 0
        lingering = Hub.running()
        assert lingering is not None
        await executor.run(append_silently)
        assert first_id(await visit()) == 1, "a new stream must start after messages published before it"
        assert Hub.running() is lingering
        await executor.run(publish, "news", "x")
        async with asyncio.timeout(30):
            while lingering.position < 2:
                await asyncio.sleep(0.01)
        assert b"elsewhere" in await visit(2, last_event_id="0")
        assert Hub.running() is lingering

    asyncio.run(main())


def test_visitor_who_comes_back_joins_the_same_hub(site: Site) -> None:
    finish(site.call(come_back))


def say_who_listens() -> None:
    """Check the presence row with and without a stream while the hub continues."""

    def row() -> list[int]:
        from streams.models import Node

        return list(Node.objects.values_list("connections", flat=True))

    async def becomes(connections: int) -> None:
        async with asyncio.timeout(4):  # PRESENCE_SECONDS is an hour, so the row must have been written at once
            while await executor.run(row) != [connections]:
                await asyncio.sleep(0.02)

    async def main() -> None:
        for _ in range(3):
            subscriber = Subscriber(["news"])
            await subscriber.open()
            await becomes(1)
            assert counter.count().channels == {"news": 1}
            await subscriber.aclose()
            assert Hub.running() is not None
            assert counter.count().head is None
            await becomes(0)

    asyncio.run(main())


def test_lingering_hub_is_not_counted(site: Site) -> None:
    finish(site.settings(PRESENCE_SECONDS=3600).call(say_who_listens))


def become_idle() -> None:
    hub.LINGER_SECONDS = 1.0

    async def main() -> None:
        await visit()
        assert Hub.running() is not None
        async with asyncio.timeout(30):
            while Hub.running() is not None or log_threads():
                await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == 1
        assert first_id(await visit()) == 0, "the hub did not start again"

    asyncio.run(main())


def test_hub_ends_and_gives_its_thread_back(site: Site) -> None:
    finish(site.call(become_idle))


def end_the_loop() -> None:
    began = time.monotonic()
    for _ in range(3):
        assert first_id(asyncio.run(visit())) == 0
    print(time.monotonic() - began)


def test_loop_that_ends_does_not_wait_for_its_hub(site: Site) -> None:
    process = site.call(end_the_loop)
    assert float(finish(process)) < hub.LINGER_SECONDS


def test_lone_visitor_does_not_wait_for_a_database_that_is_away(durable_postgres_site: Site) -> None:
    """A lingering hub does not open a stream without reading the log."""
    process = durable_postgres_site.call(find_it_away)
    process.expect_line("ready")
    assert durable_postgres_site.postgres is not None
    durable_postgres_site.postgres.stop()
    try:
        process.write_line()
        process.expect_line("refused")
    finally:
        durable_postgres_site.postgres.start()
    process.write_line()
    finish(process)


def find_it_away() -> None:

    async def main() -> None:
        await visit()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        with pytest.raises(Error):
            await visit()
        print("refused", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        async with asyncio.timeout(30):
            while True:
                try:
                    assert first_id(await visit()) == 0
                    return
                except Error:
                    await asyncio.sleep(0.1)

    asyncio.run(main())


# --- Beside replays ---------------------------------------------------------------------------------------------------

SLOW_SECONDS = 8.0


def deliver_beside_replays() -> None:
    """Occupy all threads that read, as slow replays do, and print how long live delivery takes."""

    async def main() -> None:
        subscriber = Subscriber(["news"])
        await subscriber.open()
        await anext(subscriber)
        replays = [asyncio.create_task(executor.run(time.sleep, SLOW_SECONDS)) for _ in range(8)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await asyncio.to_thread(append_silently)
        assert b"elsewhere" in await anext(subscriber)
        print(time.monotonic() - began)
        await subscriber.aclose()
        for replay in replays:
            replay.cancel()

    asyncio.run(main())


def test_live_delivery_does_not_wait_for_replays(site: Site) -> None:
    assert float(finish(site.call(deliver_beside_replays))) < SLOW_SECONDS / 2


async def test_server_ends_promptly_while_its_hub_lingers(site: Site) -> None:
    server = site.serve()
    client = await StreamClient(server.port, "/events/news/").connect()
    await client.read_control(1)
    client.abort()
    await asyncio.sleep(0.5)  # until the server has noticed that the client left
    began = time.monotonic()
    await asyncio.to_thread(server.stop, signal.SIGTERM, patient=True)
    assert time.monotonic() - began < hub.LINGER_SECONDS / 2
