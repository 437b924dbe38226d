"""Many connections of one address, with old cursors or made-up channels, do not keep honest clients from service."""

from __future__ import annotations

import contextlib
import json
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from streams.presence import node_row
from tests.support.services import wait_until
from tests.support.sites import Site, connect, finish
from tests.system.attacks.conftest import Attacked
from tests.system.attacks.raw import Answer, is_open, read, request

pytestmark = [pytest.mark.once, pytest.mark.slow]

HISTORY = 20_000
CURSORS = 200
SLOW = 10
STREAMS, CHANNELS = 1000, 50  # the default limits for an address and for a stream

# Runs in its own process, so that none of it is in the server's memory.
FILL = f"""
from streams import NewMessage, publish_many
for start in range(0, {HISTORY}, 1000):
    publish_many([NewMessage("public.old", f"{{n}} " + "x" * 1000) for n in range(start, start + 1000)])
"""

HONEST = {"X-Forwarded-For": "203.0.113.7"}  # uvicorn takes the client's address from it


def replay(port: int, cursor: int, count: int) -> Answer:
    """Read `count` old messages as an honest client does."""
    with connect(port) as client:
        client.settimeout(60)
        client.sendall(request("/events/public.old/", {**HONEST, "Last-Event-ID": str(cursor)}))
        return read(client, lambda body: body.count(b"data: ") >= count)


@contextlib.contextmanager
def attack(port: int) -> Iterator[Callable[[], int]]:
    """Read from random cursors, and reconnect with another one after 256 KiB. Yield a function that counts them."""
    ended, connections, selector = threading.Event(), 0, selectors.DefaultSelector()

    def come() -> None:
        nonlocal connections
        connections += 1
        client = connect(port)
        client.sendall(request(f"/events/public.old/?last_event_id={random.randrange(HISTORY)}"))
        selector.register(client, selectors.EVENT_READ, [0])

    def run() -> None:
        for _ in range(CURSORS):
            come()
        while not ended.is_set():
            for key, _ in selector.select(1):
                client, received = key.fileobj, key.data
                assert isinstance(client, socket.socket)
                data = client.recv(1 << 18)
                received[0] += len(data)
                if not data or received[0] > 1 << 18:
                    selector.unregister(client)
                    client.close()
                    come()
        for key in list(selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lambda: connections
    finally:
        ended.set()
        thread.join(60)


def test_random_cursors_hold_up_no_honest_client(sqlite_site: Site) -> None:
    sqlite_site.settings(WINDOW_MESSAGES=10)
    attacked = Attacked(sqlite_site, sqlite_site.serve())
    finish(sqlite_site.script(FILL))
    with attack(attacked.server.port) as connections:
        wait_until(lambda: connections() > CURSORS, "connections that have come back")
        answer = replay(attacked.server.port, 1000, 1000)
        assert answer.status == 200
        numbers = [int(line.split()[1]) for line in answer.text.splitlines() if line.endswith("xxx")]
        assert numbers[:999] == list(range(1000, 1999))
        began = time.monotonic()
        assert attacked.get("/test/burst/", seconds=60).status == 200  # this view publishes
        assert time.monotonic() - began < 10


def test_slow_readers_lock_out_no_honest_client(sqlite_site: Site) -> None:
    """The slow readers request old messages, and read none of them."""
    sqlite_site.settings(WINDOW_MESSAGES=10, DATABASE_THREADS=2, SEND_TIMEOUT_SECONDS=600)
    attacked = Attacked(sqlite_site, sqlite_site.serve())
    finish(sqlite_site.script(FILL))
    with contextlib.ExitStack() as stack:
        for number in range(SLOW):
            client = stack.enter_context(connect(attacked.server.port))
            client.sendall(request(f"/events/public.old/?last_event_id={number}"))
        answer = replay(attacked.server.port, 1000, 1000)
        assert (answer.status, answer.text.count("data: ") >= 1000) == (200, True)


def test_made_up_channels_of_one_address_are_bounded(sqlite_site: Site) -> None:
    """The test checks the process's memory, and the presence row that other processes read."""
    sqlite_site.settings(HEARTBEAT_SECONDS=60, PRESENCE_SECONDS=0.5, MAX_STREAMS_PER_ADDRESS=STREAMS)
    attacked = Attacked(sqlite_site, sqlite_site.serve())
    process = psutil.Process(attacked.server.pid)
    assert attacked.serves()
    before = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        for number in range(STREAMS):
            query = "&".join(f"channel=public.made-up.{number}.{each}" for each in range(CHANNELS))
            client = stack.enter_context(connect(attacked.server.port))
            client.sendall(request(f"/events/?{query}", {"Connection": "keep-alive"}))
            assert read(client, is_open).status == 200
        assert attacked.stream("/events/news/").status == 429
        assert attacked.stream("/events/news/", HONEST).status == 200
        grown = process.memory_info().rss - before
        assert grown < STREAMS * (150_000 + CHANNELS * 1000)

        def row() -> tuple[int, str, int]:
            [found] = sqlite_site.execute("SELECT connections, channels, channels_left_out FROM streams_node")
            return found

        wait_until(lambda: row()[0] >= STREAMS, "the row that counts them")
        _, channels, left_out = row()
        assert len(json.loads(channels)) == node_row.MAX_CHANNELS
        assert left_out >= STREAMS * CHANNELS - node_row.MAX_CHANNELS
        assert len(channels) < node_row.MAX_CHANNELS * 110
