"""Crowding: 200 connections of one address replay a large log from random cursors while others publish and listen.

The time of a delivery is from sending the publish request until a live client of the same server has the event. The
connections read as fast as they can, and reconnect with another cursor after 256 KiB.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator

from benchmarks import rig
from tests.support.sites import PYTHON, ROOT

MESSAGES = 200_000
CONNECTIONS = 200
SAMPLES = 60
PAUSE_SECONDS = 0.1
WAIT_SECONDS = 60

FILL = f"""
import django; django.setup()
from streams import NewMessage, publish_many
for start in range(0, {MESSAGES}, 1000):
    publish_many([NewMessage("news", f"message {{n}} " + "x" * 1000) for n in range(start, start + 1000)])
"""

READ = """
import random, resource, selectors, socket, sys
port, count, messages = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
random.seed(7)
selector = selectors.DefaultSelector()

def come():
    cursor = random.randrange(messages)
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.sendall(f"GET /events/news/?last_event_id={cursor} HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n".encode())
    selector.register(client, selectors.EVENT_READ, [0])

for _ in range(count):
    come()
print("READY", flush=True)
while count:
    for key, _ in selector.select():
        data = key.fileobj.recv(1 << 18)
        key.data[0] += len(data)
        if not data or key.data[0] > 1 << 18:
            selector.unregister(key.fileobj)
            key.fileobj.close()
            come()
"""


@contextlib.contextmanager
def _readers(port: int, count: int) -> Iterator[None]:
    argv = [PYTHON, "-c", READ, str(port), str(count), str(MESSAGES)]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()


def _measure(port: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds of each publish, and of each delivery to a live client."""
    received: dict[int, float] = {}
    tail = b""
    listener = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
    listener.sendall(b"GET /events/bench/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    listener.recv(1 << 16)

    def listen() -> None:
        nonlocal tail
        with contextlib.suppress(OSError):
            while data := listener.recv(1 << 16):
                now, text = time.monotonic(), tail + data
                received.update({int(n): now for n in re.findall(rb"n=(\d+);", text) if int(n) not in received})
                tail = text[-20:]

    threading.Thread(target=listen, daemon=True).start()
    sent, published = {}, []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    for n in range(SAMPLES):
        sent[n] = time.monotonic()
        connection.request("POST", "/publish/", json.dumps({"data": f"n={n};"}))
        connection.getresponse().read()
        published.append((time.monotonic() - sent[n]) * 1000)
        time.sleep(PAUSE_SECONDS)
    until = time.monotonic() + WAIT_SECONDS
    while len(received) < SAMPLES and time.monotonic() < until:
        time.sleep(0.05)
    listener.close()
    return published, [(received[n] - sent[n]) * 1000 for n in sent]


def run(kind: str = "uvicorn") -> None:
    rows: list[list[object]] = []
    for database in ("sqlite", "postgresql"):
        with rig.database(database) as url, rig.server(kind, "benchmarks.site:application", url) as server:
            subprocess.run([PYTHON, "-c", FILL], env=rig.environment(url), cwd=ROOT, check=True)
            time.sleep(2)
            for count in (0, CONNECTIONS):
                with _readers(server.port, count):
                    time.sleep(1)
                    published, delivered = _measure(server.port)
                cells = [statistics.median(delivered), max(delivered), statistics.median(published), max(published)]
                rows.append([database, count, *cells])
    rig.table(
        f"{CONNECTIONS} connections of one address replay {MESSAGES:,} messages from random cursors ({kind})",
        ["database", "connections", "delivery: median, ms", "max, ms", "publish: median, ms", "max, ms"],
        rows,
    )
