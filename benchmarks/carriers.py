"""Carriers: the cost of one notification on the PostgreSQL or Redis server, for several numbers of listeners."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import psycopg
import redis

from benchmarks import rig
from tests.support.services.postgres import PostgresServer
from tests.support.services.redis import RedisServer

LISTENERS = [1, 100, 250]
NOTIFICATIONS = 1000
TEXT = "x" * 200  # about the size of a notification with a message of a hundred characters


def _costs(pid: int, send: Callable[[], object]) -> tuple[float, float]:
    """Return the server's CPU microseconds for a notification, and the microseconds that sending takes."""
    server = rig.family(pid)  # includes the process of each open connection
    spent, began = rig.cpu_seconds(server), time.monotonic()
    for _ in range(NOTIFICATIONS):
        send()
    taken = time.monotonic() - began
    time.sleep(3)  # until all are delivered; no listener reads, and the notifications fit into the sockets' buffers
    return (rig.cpu_seconds(server) - spent) / NOTIFICATIONS * 1e6, taken / NOTIFICATIONS * 1e6


def _postgresql(listeners: int) -> tuple[float, float]:
    with contextlib.ExitStack() as stack:
        server = PostgresServer()
        stack.callback(server.remove)
        server.start()
        url = server.dsn("postgres")
        for _ in range(listeners):
            stack.enter_context(psycopg.connect(url, autocommit=True)).execute("LISTEN bench")
        publisher = stack.enter_context(psycopg.connect(url, autocommit=True))
        return _costs(server.pid, lambda: publisher.execute("SELECT pg_notify('bench', %s)", [TEXT]))


def _redis(listeners: int) -> tuple[float, float]:
    with contextlib.ExitStack() as stack:
        server = RedisServer()
        stack.callback(server.remove)
        server.start()
        publisher = stack.enter_context(redis.Redis.from_url(server.url, max_connections=2 * max(LISTENERS)))
        for _ in range(listeners):
            listener = stack.enter_context(publisher.pubsub(ignore_subscribe_messages=True))
            listener.subscribe("bench")
            listener.get_message(timeout=5)
        return _costs(server.pid, lambda: publisher.publish("bench", TEXT))


def run() -> None:
    rig.table(
        "One notification, by number of listeners",
        ["listeners", "PostgreSQL, µs CPU", "NOTIFY takes, µs", "Redis, µs CPU", "PUBLISH takes, µs"],
        [[listeners, *_postgresql(listeners), *_redis(listeners)] for listeners in LISTENERS],
    )
