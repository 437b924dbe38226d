"""Servers that are told to end, with streams open: they exit, and each client goes on where it was."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator

import psutil
import pytest

from tests import clients
from tests.clients import StreamClient
from tests.servers.holdings import holds, publish
from tests.sites import Server, Site

pytestmark = [pytest.mark.once, pytest.mark.slow]

STREAMS = 300

# On a quiet machine all of them take less than three. One that waited for its streams would take a minute.
EXIT_SECONDS = 8.0

SERVERS = ("daphne", "uvicorn", "uvicorn with 4 workers", "granian", "hypercorn", "gunicorn")
RETRY = re.compile(rb"retry: (\d+)\n$")
SLOW = json.dumps(["tests.middleware.slow"])


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    yield
    clients.leave_all()


async def exit_seconds(server: Server, how: signal.Signals = signal.SIGTERM) -> float:
    """How long the server takes to exit, with all its workers."""
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    began = time.monotonic()
    await asyncio.to_thread(server.stop, how, patient=True)
    await asyncio.to_thread(psutil.wait_procs, processes, timeout=30)
    return time.monotonic() - began


async def connect(server: Server, count: int, path: str = "/events/news/") -> list[StreamClient]:
    clients = await asyncio.gather(*(StreamClient(server.port, path).connect() for _ in range(count)))
    await asyncio.gather(*(client.read_control(1) for client in clients))
    return clients


@pytest.mark.parametrize("server", SERVERS)
async def test_server_exits_promptly_and_its_clients_go_on_with_the_next(sqlite_site: Site, server: str) -> None:
    running = sqlite_site.serve(server)
    await publish(running, "elsewhere")  # it has started
    idle = await exit_seconds(running)
    running.start()
    clients = await connect(running, STREAMS)
    await publish(running, "news", n=3)
    await asyncio.gather(*(client.read_until(3) for client in clients))
    reading = [asyncio.create_task(client.read_for(60)) for client in clients]
    took = await exit_seconds(running)
    await asyncio.gather(*reading)
    print(f"{server}: {took:.1f} s, and {idle:.1f} s without a stream")
    assert took < max(EXIT_SECONDS, 2 * idle)
    retries = [RETRY.search(bytes(client.raw)) for client in clients]
    assert all(retries), f"{retries.count(None)} of {STREAMS} ended without a word"
    assert len({found[1] for found in retries if found}) > STREAMS / 10, "the times are drawn by lot"

    await asyncio.to_thread(sqlite_site.manage, "publish", "news", "meanwhile")
    running.start()
    await asyncio.gather(*(client.connect() for client in clients))
    await publish(running, "news")
    await asyncio.gather(*(client.read_until(5) for client in clients))
    assert {tuple(int(event.id) for event in client.events) for client in clients} == {(2, 3, 4, 5, 6)}
    assert "Traceback" not in running.log.read_text()


@pytest.mark.parametrize("server", ["daphne", "uvicorn", "granian", "hypercorn"])
async def test_ctrl_c_ends_it_as_well(sqlite_site: Site, server: str) -> None:
    running = sqlite_site.serve(server)
    [client] = await connect(running, 1)
    reading = asyncio.create_task(client.read_for(60))
    assert await exit_seconds(running, signal.SIGINT) < EXIT_SECONDS
    await reading
    assert RETRY.search(bytes(client.raw))


async def test_stream_of_a_views_own_iterator_ends_too(sqlite_site: Site) -> None:
    running = sqlite_site.serve("uvicorn")
    client = await StreamClient(running.port, "/random").connect()
    await client.read_until(1)
    reading = asyncio.create_task(client.read_for(60))
    assert await exit_seconds(running) < EXIT_SECONDS
    await reading
    assert RETRY.search(bytes(client.raw))


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
async def test_client_that_takes_nothing_holds_no_server_up(sqlite_site: Site, server: str) -> None:
    running = sqlite_site.serve(server)
    stuck = await StreamClient(running.port, "/events/news/").connect(receive_buffer=4096)
    await holds(running, subscribers=1)
    for _ in range(5):
        await publish(running, "news", n=20, bytes=100_000)
    assert await exit_seconds(running) < EXIT_SECONDS
    stuck.abort()


@pytest.mark.parametrize("moment", ["wait", "slow"])
async def test_stream_that_opens_just_then_is_told_when_to_come_back(sqlite_site: Site, moment: str) -> None:
    running = sqlite_site.serve("uvicorn", TEST_MIDDLEWARE=SLOW)
    [client] = await connect(running, 1)
    late = StreamClient(running.port, f"/events/news/?{moment}=0.5")
    opening = asyncio.create_task(late.connect())
    await asyncio.sleep(0.2)
    assert await exit_seconds(running) < EXIT_SECONDS
    await opening
    await late.read_for(10)
    assert late.status == 200, "an EventSource gives up at any other"
    assert re.fullmatch(RETRY.pattern, bytes(late.raw))
    client.abort()


async def test_second_signal_goes_straight_to_the_server(sqlite_site: Site) -> None:
    """Also where it comes within the moment for which the first is held back."""
    running = sqlite_site.serve("uvicorn", TEST_MIDDLEWARE=SLOW)
    [client] = await connect(running, 1)
    busy = asyncio.create_task(StreamClient(running.port, "/?wait=600").connect())  # uvicorn waits for it
    await asyncio.sleep(0.2)
    reading = asyncio.create_task(client.read_for(60))
    os.kill(running.pid, signal.SIGTERM)
    await reading
    assert RETRY.search(bytes(client.raw))
    assert await exit_seconds(running, signal.SIGINT) < EXIT_SECONDS, "uvicorn's second Ctrl-C ends it at once"
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await busy
