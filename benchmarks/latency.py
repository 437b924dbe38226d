"""Latency: the time from a commit in one process until a client of another process has the event, for each notifier.

The time starts when the publisher's transaction has committed, before the message gets its position and the notice is
sent. It stops when a client has read the event from its socket. So it includes sequencing, the notice, the hub, the
stream and HTTP. Messages are published one at a time with a pause, so that none waits for another.

Two figures to compare with: the carrier's own latency, from a NOTIFY or PUBLISH on one connection to a listener on
another; and the round trip of a request that a bare ASGI app answers on the same web server.
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
from collections.abc import Callable, Iterator

import psycopg
import redis

from benchmarks import rig
from tests.support.services.redis import RedisServer
from tests.support.sites import PYTHON, ROOT

MESSAGES = 400
PAUSE_SECONDS = 0.02
WARM_UP = 20

PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
QUEUES = "channels_redis.core.RedisChannelLayer"

PUBLISH = """
import json, sys, time
import django; django.setup()
from django.db import transaction
from streams import publish
count, pause = int(sys.argv[1]), float(sys.argv[2])
committed = []
for n in range(count):
    with transaction.atomic():
        transaction.on_commit(lambda: committed.append(time.time_ns()))
        publish("news", f"n={n};")
    time.sleep(pause)
print(json.dumps(committed))
"""


def _receive(connection: socket.socket, count: int) -> list[int]:
    """Return the times at which `count` events arrived."""
    received: list[int] = []
    tail = b""
    while len(received) < count:
        data = connection.recv(2**16)
        if not data:
            raise RuntimeError(f"The stream ended after {len(received)} of {count} events.")
        now, text = time.time_ns(), tail + data
        found = re.findall(rb"n=(\d+);", text)
        received += [now] * len(found)
        tail = text[text.rfind(b";") + 1 :][-20:]
    return received


def _milliseconds(url: str, **env: str) -> list[float]:
    with (
        rig.server("uvicorn", "benchmarks.site:application", url, **env) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
    ):
        connection.sendall(b"GET /events/news/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        connection.recv(2**16)
        time.sleep(2)  # until the notifier listens
        argv = [PYTHON, "-c", PUBLISH, str(MESSAGES), str(PAUSE_SECONDS)]
        publisher = subprocess.Popen(
            argv, cwd=ROOT, env={**rig.environment(url), **env}, stdout=subprocess.PIPE, text=True
        )
        received = _receive(connection, MESSAGES)
        committed = json.loads(publisher.communicate()[0])
    return [(end - start) / 1e6 for start, end in zip(committed, received, strict=True)][WARM_UP:]


def _carried(send: Callable[[str], object], messages: Iterator[str]) -> list[float]:
    """Return the milliseconds from before each send until a listener in another thread has received it."""
    received: list[int] = []

    def listen() -> None:
        for _ in zip(range(MESSAGES), messages, strict=False):
            received.append(time.time_ns())

    listener = threading.Thread(target=listen)
    listener.start()
    sent = []
    for n in range(MESSAGES):
        sent.append(time.time_ns())
        send(f"n={n};")
        time.sleep(PAUSE_SECONDS)
    listener.join(60)
    return [(end - start) / 1e6 for start, end in zip(sent, received, strict=True)][WARM_UP:]


def _by_postgresql(url: str) -> list[float]:
    with (
        psycopg.connect(url, autocommit=True) as listener_connection,
        psycopg.connect(url, autocommit=True) as publisher,
    ):
        listener_connection.execute("LISTEN bench")
        return _carried(
            lambda text: publisher.execute("SELECT pg_notify('bench', %s)", [text]),
            (notice.payload for notice in listener_connection.notifies()),
        )


def _by_redis(url: str) -> list[float]:
    with redis.Redis.from_url(url) as publisher, redis.Redis.from_url(url) as other:
        listener_connection = other.pubsub(ignore_subscribe_messages=True)
        listener_connection.subscribe("bench")
        listener_connection.get_message(timeout=5)
        return _carried(
            lambda text: publisher.publish("bench", text),
            (str(message["data"]) for message in listener_connection.listen()),
        )


def _round_trip(url: str) -> list[float]:
    """Return the milliseconds of requests that a bare ASGI app answers over a persistent connection."""
    found = []
    with rig.server("uvicorn", "benchmarks.bare:application", url) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        for _ in range(MESSAGES):
            began = time.monotonic_ns()
            connection.request("GET", "/burst/?n=0&rate=0")
            connection.getresponse().read()
            found.append((time.monotonic_ns() - began) / 1e6)
            time.sleep(PAUSE_SECONDS)
        connection.close()
    return found[WARM_UP:]


def _row(name: str, ours: list[float], carrier: list[float] | None) -> list[object]:
    row: list[object] = [name, statistics.median(ours), statistics.quantiles(ours, n=100)[98]]
    if carrier is None:
        return [*row, "", "", ""]
    median = statistics.median(carrier)
    return [*row, median, statistics.quantiles(carrier, n=100)[98], statistics.median(ours) / median]


def run() -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(rig.database("postgresql"))
        server = RedisServer()
        stack.callback(server.remove)
        server.start()
        postgresql, by_redis = _by_postgresql(url), _by_redis(server.url)
        layers = {"RedisPubSubChannelLayer": PUBSUB, "RedisChannelLayer": QUEUES}
        rows = []
        for carry, what in (("yes", "messages"), ("no", "positions only")):
            found = _milliseconds(url, BENCH_CARRY=carry)
            rows.append(_row(f"PostgresNotifier, {what}", found, postgresql))
            for name, layer in layers.items():
                found = _milliseconds(url, BENCH_CARRY=carry, REDIS_URL=server.url, BENCH_LAYER=layer)
                rows.append(_row(f"ChannelLayerNotifier, {name}, {what}", found, by_redis))
        rows.append(_row("LocalNotifier, by polling each second", _milliseconds(url, BENCH_NOTIFIER="local"), None))
        rows.append(_row("a request to uvicorn, round trip", _round_trip(url), None))
    rig.table(
        f"Latency from commit to client (uvicorn, PostgreSQL, {MESSAGES - WARM_UP} messages one by one)",
        ["notifier", "median, ms", "p99, ms", "carrier's median", "carrier's p99", "ratio of medians"],
        rows,
    )
