"""Two thousand connections from one address: it gets MAX_STREAMS_PER_ADDRESS streams, and others are served."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter

import psutil
import pytest

from tests.support.services import wait_until
from tests.support.sites import Site, connect
from tests.system.attacks.conftest import Attacked
from tests.system.attacks.raw import read, request

pytestmark = pytest.mark.once

CONNECTIONS = 2000
ASKING = 800  # these request a stream; the others send nothing
SERVED = 600

# docs/operations/capacity.md reports about 50 KiB for a stream.
BYTES_PER_STREAM = 150_000


def is_answered(body: bytes) -> bool:
    return bool(body)


def test_two_thousand_connections_from_one_address(sqlite_site: Site) -> None:
    sqlite_site.settings(MAX_STREAMS_PER_ADDRESS=SERVED, HEARTBEAT_SECONDS=60)
    attacked = Attacked(sqlite_site, sqlite_site.serve())
    process = psutil.Process(attacked.server.pid)
    assert attacked.serves()
    before = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        clients, statuses = [], Counter[int]()
        for number in range(0, CONNECTIONS, 100):
            some = [stack.enter_context(connect(attacked.server.port)) for _ in range(100)]
            if number < ASKING:
                for client in some:
                    client.sendall(request("/events/news/", {"Connection": "keep-alive"}))
                statuses.update(read(client, is_answered).status for client in some)
            clients += some
        assert statuses == {200: SERVED, 429: ASKING - SERVED}

        # The next client is refused with the limit's name. Other pages are served at once.
        refused = attacked.stream("/events/news/")
        assert (refused.status, refused.code) == (429, "too-many-streams-of-address")
        assert "MAX_STREAMS_PER_ADDRESS" in refused.text
        assert refused.header("retry-after") is not None
        # uvicorn takes the client's address from this header if the peer is 127.0.0.1, as with a proxy.
        assert attacked.stream("/events/news/", {"X-Forwarded-For": "203.0.113.7"}).status == 200
        began = time.monotonic()
        assert attacked.get("/listeners/").json == {"listeners": SERVED}
        assert attacked.get("/").status == 200
        assert time.monotonic() - began < 10
        assert process.num_threads() < 30
        assert process.memory_info().rss - before < SERVED * BYTES_PER_STREAM

        # A published message reaches the open streams.
        attacked.get("/test/burst/")
        assert b"data: " in received(clients[0])

    wait_until(attacked.serves, "a stream once they have left")


def received(client: socket.socket) -> bytes:
    """Read until the event with id 1, and return the bytes."""
    client.settimeout(30)
    body = b""
    while b"id: 1\n" not in body:
        body += client.recv(1 << 16)
    return body
