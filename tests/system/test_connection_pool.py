"""Django's connection pool: OPTIONS = {"pool": …}. The log's threads and the site's requests share its connections."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest
from django.db import connections

from streams import apublish, publish
from streams.delivery.subscriber import Subscriber
from streams.models import Message
from tests.support.services import wait_until
from tests.support.sites import Site, finish

pytest.importorskip("psycopg_pool")

pytestmark = pytest.mark.once

REQUESTS, ROUNDS = 12, 10

# A thread that waits longer than `timeout` for a connection fails.
POOL = {"min_size": 0, "max_size": 3, "timeout": 10, "max_idle": 1}


def request(number: int) -> None:
    """Act like a sync view: run ORM queries and publish. Django closes the connection afterwards."""
    try:
        Message.objects.count()
        publish("news", f"sync {number}")
        Message.objects.count()
    finally:
        connections.close_all()


def share_a_pool() -> None:
    connections.settings["default"]["OPTIONS"]["pool"] = POOL

    async def burst() -> None:
        await asyncio.gather(
            *(asyncio.to_thread(request, number) for number in range(REQUESTS)),
            *(apublish("news", f"async {number}") for number in range(REQUESTS)),
            *(apublish("news", f"keyed {number}", idempotency_key=f"{number}") for number in range(REQUESTS)),
            *(visit() for _ in range(REQUESTS)),
        )

    async def visit() -> None:
        subscriber = Subscriber(["news"], last_event_id="0")
        async for _ in subscriber:
            break
        await subscriber.aclose()

    async def main() -> None:
        subscriber = Subscriber(["news"])
        await subscriber.open()
        for _ in range(ROUNDS):
            await burst()
        print("done", flush=True)
        # The stream and its hub go on, in one thread.
        async with asyncio.timeout(30):
            while sum(thread.name == "streams-log" for thread in threading.enumerate()) > 2:
                await asyncio.sleep(0.1)
        print("quiet", flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # the test looks at our connections
        await subscriber.aclose()

    asyncio.run(main())


def connected(site: Site) -> int:
    assert site.postgres is not None
    return site.postgres.connections(site.database_url.rpartition("/")[2])


def test_requests_publishers_and_streams_share_a_small_pool(postgres_site: Site) -> None:
    process = postgres_site.call(share_a_pool)
    process.expect_line("done")
    process.expect_line("quiet")
    wait_until(lambda: connected(postgres_site) <= 1, "the end of the surplus connections")
    process.write_line()
    finish(process)
    [(published,)] = postgres_site.execute("SELECT count(*) FROM streams_message")
    assert published == ROUNDS * 2 * REQUESTS + REQUESTS
