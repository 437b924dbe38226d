"""Carriers: what news costs PostgreSQL and Redis themselves, by how many processes listen to it."""

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
NEWS = 1000
TEXT = "x" * 200  # about what a message of a hundred characters makes


def _costs(pid: int, say: Callable[[], object]) -> tuple[float, float]:
    """Of one piece of news: CPU microseconds of the server, and microseconds until it is taken."""
    server = rig.family(pid)  # with a process for each connection that is open now
    spent, began = rig.cpu_seconds(server), time.monotonic()
    for _ in range(NEWS):
        say()
    taken = time.monotonic() - began
    time.sleep(3)  # until all have it; they do not read, and what it makes fits into the connections' buffers
    return (rig.cpu_seconds(server) - spent) / NEWS * 1e6, taken / NEWS * 1e6


def _postgresql(listeners: int) -> tuple[float, float]:
    with contextlib.ExitStack() as stack:
        server = PostgresServer()
        stack.callback(server.remove)
        server.start()
        url = server.dsn("postgres")
        for _ in range(listeners):
            stack.enter_context(psycopg.connect(url, autocommit=True)).execute("LISTEN bench")
        says = stack.enter_context(psycopg.connect(url, autocommit=True))
        return _costs(server.pid, lambda: says.execute("SELECT pg_notify('bench', %s)", [TEXT]))


def _redis(listeners: int) -> tuple[float, float]:
    with contextlib.ExitStack() as stack:
        server = RedisServer()
        stack.callback(server.remove)
        server.start()
        says = stack.enter_context(redis.Redis.from_url(server.url, max_connections=2 * max(LISTENERS)))
        for _ in range(listeners):
            hears = stack.enter_context(says.pubsub(ignore_subscribe_messages=True))
            hears.subscribe("bench")
            hears.get_message(timeout=5)
        return _costs(server.pid, lambda: says.publish("bench", TEXT))


def run() -> None:
    rig.table(
        "One piece of news, by how many listen",
        ["listeners", "PostgreSQL, µs CPU", "NOTIFY takes, µs", "Redis, µs CPU", "PUBLISH takes, µs"],
        [[listeners, *_postgresql(listeners), *_redis(listeners)] for listeners in LISTENERS],
    )
