"""Metrics of a site with several processes, which share a directory as prometheus_client requires."""

from __future__ import annotations

import asyncio
import signal
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.clients import StreamClient
from tests.support.sites import Server, Site
from tests.system.servers.holdings import publish

pytestmark = pytest.mark.once

TOKEN = "a-token-of-Prometheus-1"


def scrape(server: Server) -> dict[str, float]:
    """Return {name, with the labels' values: value} of the metrics of Streams."""
    request = urllib.request.Request(f"{server.url}/test/metrics/", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        text = response.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [value for _, value in sorted(sample.labels.items())]
            found[" ".join([sample.name.removeprefix("streams_"), *labels])] = sample.value
    return found


async def expect(server: Server, **expected: float) -> dict[str, float]:
    """Scrape until the metrics have these values; the names have underscores for spaces of scrape()."""
    async with asyncio.timeout(30):
        while True:
            found = await asyncio.to_thread(scrape, server)
            names = {name.replace(" ", "_"): value for name, value in found.items()}
            if {name: names.get(name) for name in expected} == expected:
                return found
            await asyncio.sleep(0.1)


async def open_stream(server: Server) -> StreamClient:
    client = await StreamClient(server.port, "/events/news/").connect()
    await client.read_control(1)
    return client


@pytest.fixture
def servers(sqlite_site: Site, tmp_path: Any) -> Any:
    folder = tmp_path / "metrics"
    folder.mkdir()
    sqlite_site.settings(METRICS_TOKEN=TOKEN)
    return lambda: sqlite_site.serve(PROMETHEUS_MULTIPROC_DIR=str(folder))


async def test_scrape_of_one_process_answers_for_all(servers: Any) -> None:
    first, second = servers(), servers()
    clients = [await open_stream(server) for server in (first, first, second)]
    found = await expect(second, open_streams_log=3, opened_streams_total_log=3, notifier_processes_ok=2)
    assert found["database_up"] == 1
    await publish(first, "news")
    for client in clients:
        await client.read_until(1)
    # The second process has no notice of it, and polls.
    found = await expect(
        second,
        deliveries_total_live=3,
        delivery_delay_seconds_count_notice=1,
        delivery_delay_seconds_count_poll=1,
        log_head=1,
    )
    size = sum(len(f"id: 1\ndata: {client.events[0].data}\n\n") for client in clients)
    assert found["delivered_bytes_total live"] == size
    assert found["published_messages_total"] == 1


async def test_ended_processes_have_no_open_streams(servers: Any) -> None:
    first, second = servers(), servers()
    clients = [await open_stream(server) for server in (first, second)]
    await expect(first, open_streams_log=2)
    await asyncio.to_thread(second.stop, signal.SIGTERM)
    await expect(first, open_streams_log=1, ended_streams_total_shutdown_log=1)
    third = servers()
    clients.append(await open_stream(third))
    await expect(first, open_streams_log=2)
    await asyncio.to_thread(third.stop, signal.SIGKILL)
    await expect(first, open_streams_log=1, opened_streams_total_log=3)
    await clients[0].close()
    await expect(first, open_streams_log=0, ended_streams_total_client_log=1)
