"""Servers that get a signal while streams are open exit promptly, and each client resumes from its cursor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator

import psutil
import pytest

from tests.support import clients
from tests.support.clients import StreamClient
from tests.support.sites import Server, Site
from tests.system.servers.conftest import DIRECT, OURS
from tests.system.servers.holdings import holds, publish

pytestmark = [pytest.mark.once, pytest.mark.slow]

STREAMS = 100

# The promise, unless the server takes longer without any stream; and the time that a busy machine can add.
EXIT_SECONDS = 3.0
BUSY_SECONDS = 5.0

# For the tests that only check that the server exits. A server that waited for its streams would never exit.
LONG_SECONDS = 15.0

SERVERS = ("daphne", "uvicorn", "uvicorn with 4 workers", "granian", "hypercorn", "gunicorn")
RETRY = re.compile(rb"retry: (\d+)\n$")
SLOW = json.dumps(["tests.support.middleware.slow"])


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    yield
    clients.leave_all()


async def exit_seconds(server: Server, how: signal.Signals = signal.SIGTERM) -> float:
    """Return the seconds until the server and its workers have exited. SIGINT is sent to all, as Ctrl-C does."""
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    began = time.monotonic()
    if how is signal.SIGINT:
        for process in processes[1:]:
            process.send_signal(how)
    await asyncio.to_thread(server.stop, how, patient=True)
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=30)
    assert not alive
    return time.monotonic() - began


async def connect(server: Server, count: int, path: str = "/events/news/") -> list[StreamClient]:
    clients = await asyncio.gather(*(StreamClient(server.port, path).connect() for _ in range(count)))
    await asyncio.gather(*(client.read_control(1) for client in clients))
    return clients


async def end(running: Server, clients: list[StreamClient], how: signal.Signals = signal.SIGTERM) -> float:
    """Stop the server while the clients read, and return the seconds. Each client must receive a `retry:` line."""
    reading = [asyncio.create_task(client.read_for(60)) for client in clients]
    took = await exit_seconds(running, how)
    await asyncio.gather(*reading)
    retries = [RETRY.search(bytes(client.raw)) for client in clients]
    assert all(retries), f"{retries.count(None)} of {len(clients)} streams ended without a `retry:` line"
    if len(clients) == STREAMS:
        assert len({found[1] for found in retries if found}) > STREAMS / 10, "the times should have jitter"
    return took


@pytest.mark.parametrize(
    ("server", "app"),
    [*((server, OURS) for server in SERVERS), ("daphne", DIRECT), ("uvicorn", DIRECT), ("granian", DIRECT)],
)
async def test_server_exits_promptly_and_its_clients_go_on_with_the_next(
    sqlite_site: Site, server: str, app: str
) -> None:
    running = sqlite_site.serve(server, app)
    await publish(running, "elsewhere")  # the server has started
    idle = await exit_seconds(running)
    running.start()
    clients = await connect(running, STREAMS)
    newest = await publish(running, "news", n=3)
    await asyncio.gather(*(client.read_until(3) for client in clients))
    took = await end(running, clients)
    assert took < max(EXIT_SECONDS, idle) + BUSY_SECONDS, f"{idle:.1f} s without a stream"
    await asyncio.to_thread(sqlite_site.manage, "publish", "news", "meanwhile")
    running.start()
    await asyncio.gather(*(client.connect() for client in clients))
    last = await publish(running, "news")
    expected = list(range(newest - 2, last + 1))
    assert len(expected) == 5
    await asyncio.gather(*(client.read_until(len(expected)) for client in clients))
    assert {tuple(int(event.id) for event in client.events) for client in clients} == {tuple(expected)}
    assert "Traceback" not in running.log.read_text()


@pytest.mark.parametrize("server", SERVERS)
async def test_ctrl_c_in_its_terminal_ends_it_as_well(sqlite_site: Site, server: str) -> None:
    running = sqlite_site.serve(server)
    clients = await connect(running, 5)
    assert await end(running, clients, signal.SIGINT) < LONG_SECONDS


async def test_server_that_ends_of_itself_ends_its_streams_too(sqlite_site: Site) -> None:
    """The server exits without a signal."""
    running = sqlite_site.serve("uvicorn", UVICORN_LIMIT_MAX_REQUESTS="5")
    [client] = await connect(running, 1)
    reading = asyncio.create_task(client.read_for(60))
    with contextlib.suppress(OSError):  # the server stops accepting requests
        for _ in range(10):
            await publish(running, "news")
    async with asyncio.timeout(LONG_SECONDS):
        await reading
        while running.exit_code() is None:
            await asyncio.sleep(0.1)
    assert RETRY.search(bytes(client.raw))
    running.stop()


async def test_stream_of_a_views_own_iterator_ends_too(sqlite_site: Site) -> None:
    running = sqlite_site.serve("uvicorn")
    client = await StreamClient(running.port, "/random").connect()
    await client.read_until(1)
    reading = asyncio.create_task(client.read_for(60))
    assert await exit_seconds(running) < LONG_SECONDS
    await reading
    assert RETRY.search(bytes(client.raw))


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
async def test_client_that_takes_nothing_holds_no_server_up(sqlite_site: Site, server: str) -> None:
    running = sqlite_site.serve(server)
    stuck = await StreamClient(running.port, "/events/news/").connect(receive_buffer=4096)
    await holds(running, subscribers=1)
    for _ in range(5):
        await publish(running, "news", n=20, bytes=100_000)
    assert await exit_seconds(running) < LONG_SECONDS
    stuck.abort()


@pytest.mark.parametrize(
    ("server", "moment", "is_first"),
    [
        ("uvicorn", "wait", False),
        ("uvicorn", "slow", False),
        ("uvicorn", "wait", True),
        ("granian", "wait", True),
        ("gunicorn", "wait", True),
    ],
)
async def test_stream_that_opens_just_then_is_told_when_to_come_back(
    sqlite_site: Site, server: str, moment: str, is_first: bool
) -> None:
    """With `is_first`, no stream was opened in this process before."""
    running = sqlite_site.serve(server, TEST_MIDDLEWARE=SLOW)
    await publish(running, "elsewhere")  # the server has started; gunicorn loses a signal that comes earlier
    if not is_first:
        await connect(running, 1)
    late = StreamClient(running.port, f"/events/news/?{moment}=0.5")
    opening = asyncio.create_task(late.connect())
    await asyncio.sleep(0.2)
    assert await exit_seconds(running) < LONG_SECONDS
    await opening
    await late.read_for(10)
    assert late.status == 200, "an EventSource gives up at any other status"
    assert RETRY.search(bytes(late.raw))


async def test_second_signal_goes_straight_to_the_server(sqlite_site: Site) -> None:
    """This also holds if it comes while Streams still delays the first signal."""
    running = sqlite_site.serve("uvicorn", TEST_MIDDLEWARE=SLOW)
    [client] = await connect(running, 1)
    busy = asyncio.create_task(StreamClient(running.port, "/?wait=600").connect())  # uvicorn waits for it
    await asyncio.sleep(0.2)
    reading = asyncio.create_task(client.read_for(60))
    os.kill(running.pid, signal.SIGTERM)
    await reading
    assert RETRY.search(bytes(client.raw))
    assert await exit_seconds(running, signal.SIGINT) < LONG_SECONDS, "uvicorn should exit at once on a second signal"
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await busy
