"""Clients that never finish their requests hold one connection each, and do not delay other clients.

Behavior of the servers without a proxy (seen in uvicorn 0.54 with httptools, hypercorn 0.18, granian 2.8, daphne 4.2):

| | half a head | a head that comes byte by byte | half a body | a head of 50 MB |
|---|---|---|---|---|
| uvicorn | stays | stays | stays | kept in memory: as lines, half a gigabyte. h11 (`--http h11`) refuses it |
| hypercorn | closed after 5 s | closed after 5 s | stays | 431 |
| granian | closed after 30 s | closed after 30 s | stays | 431 |
| daphne | closed after 60 s | stays | closed after 60 s of silence | closed |

Therefore a public site needs a proxy. nginx has limits for all of these cases.
"""

from __future__ import annotations

import contextlib
import time

import psutil
import pytest

from tests.support.sites import connect
from tests.system.attacks.conftest import Attacked

pytestmark = pytest.mark.once

MEBIBYTE = 2**20

CONNECTIONS = 300

UNFINISHED = (
    b"",
    b"G",
    b"GET /events/news/ HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ",
    b"GET /events/news/ HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    b"POST /chat/send HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{",
    b"POST /chat/send HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
)


def test_clients_that_never_finish_their_requests_hold_up_nobody(attacked: Attacked) -> None:
    process = psutil.Process(attacked.server.pid)
    threads, before = process.num_threads(), process.memory_info().rss
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(attacked.server.port)) for _ in range(CONNECTIONS)]
        for number, connection in enumerate(slow):
            connection.sendall(UNFINISHED[number % len(UNFINISHED)])
        for _ in range(5):  # one byte at a time, to keep the connection open
            for connection in slow[2 :: len(UNFINISHED)]:
                connection.sendall(b"a")
            began = time.monotonic()
            assert attacked.serves()
            assert attacked.get("/listeners/").status == 200
            assert time.monotonic() - began < 2
        assert process.num_threads() <= threads + 5
        assert process.memory_info().rss - before < 32 * MEBIBYTE
    assert attacked.serves()
