"""The log threads of a process: their connections, and the thread that a call uses."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import OperationalError, connection, connections

from streams import log, publish
from streams.runtime import executor, test_run
from streams.runtime.executor import LogThreads
from tests.runtime.support import all_gone, set_threads
from tests.support.services import wait_until
from tests.support.sites import Site, finish

# --- Connections ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_queries_are_not_collected_in_debug(pool: LogThreads, settings: Any) -> None:
    settings.DEBUG = True

    def count() -> int:
        log.head()
        return len(connections["default"].queries_log)

    pool.submit(count).result(30)  # opens the connection, which needs queries too
    assert [pool.submit(count).result(30) for _ in range(5)] == [1] * 5


@pytest.mark.django_db(transaction=True)
def test_lost_connection_is_replaced(pool: LogThreads, settings: Any) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("a file has no connection to lose")
    set_threads(settings, 1)

    def lose() -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    assert pool.submit(log.current_head).result(30) == 0
    with pytest.raises(OperationalError):
        pool.submit(lose).result(30)
    assert pool.submit(log.current_head).result(30) == 0


@pytest.mark.django_db(transaction=True)
def test_ended_idle_connection_is_replaced(pool: LogThreads, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart of the database ends connections. Without a new one, a stream would end and its client reconnect."""
    if connection.vendor != "postgresql":
        pytest.skip("a file has no connection to lose")
    set_threads(settings, 1)
    monkeypatch.setattr(test_run, "LINGER_SECONDS", 1.0)  # so that the thread does not close the connection first

    def backend() -> tuple[threading.Thread, int]:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return threading.current_thread(), int(cursor.fetchone()[0])

    thread, first = pool.submit(backend).result(30)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [first])
    again, second = pool.submit(backend).result(30)
    assert (again, first != second) == (thread, True)
    wait_until(all_gone({thread}), "the end of the thread")


def read_together() -> None:
    """Read forty times at once on an event loop, then wait. Print the number of threads, and a line when they end."""

    async def main() -> None:
        await asyncio.gather(*(executor.run(log.head) for _ in range(40)))
        named = [thread for thread in threading.enumerate() if thread.name == "streams-log"]
        print(len(named), flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # until the test has counted the connections
        await asyncio.to_thread(wait_until, all_gone(set(named)), "the end of the threads")
        print("gone", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        assert (await executor.run(log.head)).head == 0  # new threads start

    asyncio.run(main())


@pytest.mark.once
def test_idle_threads_close_their_connections(site: Site) -> None:
    def connected() -> int:
        if site.postgres is not None:
            return site.postgres.connections(site.database_url.rpartition("/")[2])
        files = Path(f"/proc/{process.pid}/fd").iterdir()
        return sum(os.readlink(file).endswith("db.sqlite3") for file in files)

    process = site.call(read_together)
    assert 1 <= int(process.stdout.readline()) <= 4
    assert 1 <= connected() <= 4
    process.write_line()
    process.expect_line("gone")
    # The process itself has no connections, so that any would belong to these threads.
    assert connected() == 0
    process.write_line()
    finish(process)


def test_sqlite_has_no_deadline(settings: Any) -> None:
    """SQLite has no server that could hang, and the site decides how long a writer waits for the lock."""
    is_file = connection.vendor == "sqlite"
    assert executor.timeout_seconds() == (None if is_file else 15)
    settings.STREAMS = {**settings.STREAMS, "DATABASE_TIMEOUT_SECONDS": None}
    assert executor.timeout_seconds() is None


# --- Which thread a call uses -----------------------------------------------------------------------------------------


async def test_run_leaves_the_event_loop_free() -> None:
    here = threading.current_thread()
    assert await executor.run(threading.current_thread) is not here
    release = threading.Event()
    waiting = asyncio.create_task(executor.run(release.wait, 30))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    release.set()
    assert await waiting


async def test_run_raises_the_exception() -> None:
    with pytest.raises(ZeroDivisionError):
        await executor.run(divmod, 1, 0)


def test_run_uses_a_sync_callers_thread() -> None:
    async def where() -> threading.Thread:
        return await executor.run(threading.current_thread)

    assert async_to_sync(where)() is threading.current_thread()


@pytest.mark.django_db(transaction=True)
def test_sync_publish_uses_the_callers_connection() -> None:
    running = set(threading.enumerate())
    publish("news", "x")
    assert set(threading.enumerate()) <= running
