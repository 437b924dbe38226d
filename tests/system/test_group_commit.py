"""Concurrent publishers in one process share transactions."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time

import pytest
from django.db import OperationalError, connections, transaction
from django.db.backends.signals import connection_created

from streams import apublish, log, publish
from streams.models import Message
from streams.runtime import executor
from tests.support.reads import tail
from tests.support.services import wait_until
from tests.support.sites import Site, finish
from tests.system.support import assert_no_holes, expect_line_soon, send_line, wait_for_line

pytestmark = pytest.mark.once


# --- The number and size of shared transactions -----------------------------------------------------------------------


def publish_hundred_together() -> None:
    """Make a hundred concurrent apublish calls. Prints the number of COMMITs on SQLite, and 0 on PostgreSQL."""
    statements: list[str] = []

    def trace(*, connection: object, **kwargs: object) -> None:
        if connection.vendor == "sqlite":  # type: ignore[attr-defined]
            connection.connection.set_trace_callback(statements.append)  # type: ignore[attr-defined]

    connection_created.connect(trace)

    async def together() -> list[Message]:
        return list(await asyncio.gather(*(apublish("news", str(number)) for number in range(100))))

    published = asyncio.run(together())
    assert sorted(message.position or 0 for message in published) == list(range(1, 101))
    print(sum(statement == "COMMIT" for statement in statements))


def test_concurrent_calls_share_transactions(site: Site) -> None:
    commits = int(finish(site.call(publish_hundred_together)))
    if site.is_postgres:
        # The xmin of a row is the transaction that wrote it.
        [(commits,)] = site.execute("SELECT count(DISTINCT xmin::text) FROM streams_message")
    assert assert_no_holes(site) == [str(number) for number in range(100)]  # in the order of the calls
    assert 1 <= commits <= 10


def publish_hundred_keys_together() -> None:
    async def main() -> None:
        await asyncio.gather(*(apublish("news", str(n), idempotency_key=str(n)) for n in range(100)))

    asyncio.run(main())


def test_calls_with_keys_share_transactions(postgres_site: Site) -> None:
    finish(postgres_site.call(publish_hundred_keys_together))
    [(count,)] = postgres_site.execute("SELECT count(DISTINCT xmin::text) FROM streams_message")
    assert count <= 20
    assert len(assert_no_holes(postgres_site)) == 100


async def publish_large(count: int) -> None:
    await asyncio.gather(*(apublish("news", "x" * 1_000_000) for _ in range(count)))


def publish_large_together(count: str) -> None:
    asyncio.run(publish_large(int(count)))


def test_shared_transactions_are_bounded_in_bytes(postgres_site: Site) -> None:
    postgres_site.settings(MAX_MESSAGE_BYTES=1_000_000)
    finish(postgres_site.call(publish_large_together, 16))
    # The xmin of a row is the transaction that wrote it last, which is the one that has numbered it.
    groups = postgres_site.execute("SELECT sum(size) FROM streams_message GROUP BY xmin::text")
    assert max(int(size) for (size,) in groups) <= 4_194_304


# --- Calls that are cancelled, fail or are interrupted ----------------------------------------------------------------


def cancel_before_it_begins() -> None:
    """Cancel an apublish call that waits, and publish again later. Prints the messages before and after that."""

    async def main() -> None:
        release = threading.Event()
        occupied = [asyncio.create_task(executor.run(release.wait)) for _ in range(4)]  # all of DATABASE_THREADS
        await asyncio.sleep(0.1)
        cancelled = asyncio.create_task(apublish("news", "cancelled"))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        release.set()
        await asyncio.gather(*occupied)
        await asyncio.sleep(0.5)
        _, before = await executor.run(tail, 0)
        await apublish("news", "much later")
        _, after = await executor.run(tail, 0)
        print(json.dumps([[message.data for message in before], [message.data for message in after]]))

    asyncio.run(main())


def test_cancelled_call_publishes_now_or_never(site: Site) -> None:
    before, after = json.loads(finish(site.call(cancel_before_it_begins)))
    assert before in ([], ["cancelled"])
    assert after == [*before, "much later"]  # the later call did not publish the cancelled message


def publish_twenty_without_an_answer() -> None:
    """Make twenty concurrent apublish calls when the test sends a line. Prints how many failed."""

    async def together() -> list[object]:
        calls = (apublish("news", str(number)) for number in range(20))
        return list(await asyncio.gather(*calls, return_exceptions=True))

    asyncio.run(apublish("news", "before"))  # opens the connection
    send_line("ready")
    wait_for_line("go on")
    results = asyncio.run(together())
    assert all(isinstance(result, Message | OperationalError) for result in results), results
    print(sum(isinstance(result, OperationalError) for result in results))


def test_unanswered_commit_is_not_repeated(postgres_site: Site) -> None:
    server = postgres_site.postgres
    assert server is not None
    publishing = postgres_site.call(publish_twenty_without_an_answer)
    publishing.expect_line("ready")
    # A commit that waits for a standby is already durable. If the connection ends there, the client cannot know it.
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    server.execute("SELECT pg_reload_conf()")
    try:
        wait_until(lambda: server.execute("SHOW synchronous_standby_names") == [("nobody",)], "reloading")
        publishing.write_line("go on")
        stuck = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()"
        wait_until(lambda: postgres_site.execute(f"SELECT 1 {stuck}"), "a commit that waits")
    finally:
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
    ended = postgres_site.execute(f"SELECT pg_terminate_backend(pid) {stuck}")
    server.execute("SELECT pg_reload_conf()")
    assert ended
    assert int(finish(publishing)) >= 1
    data = assert_no_holes(postgres_site)
    assert len(set(data)) == len(data)


def interrupt_a_publisher() -> None:
    """Interrupt a publish that waits for another thread's, like the time limit of a task queue. Then publish again."""

    class TimeLimit(Exception):
        pass

    def stop(*args: object) -> None:
        raise TimeLimit

    signal.signal(signal.SIGUSR1, stop)
    log.current_head()
    others = [threading.Thread(target=lambda: (publish("news", "other"), connections.close_all())) for _ in range(2)]
    others[0].start()
    time.sleep(1)  # until the thread waits for the database
    threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
    try:
        publish("news", "interrupted")
    except TimeLimit:
        send_line("interrupted")
    others[1].start()
    wait_for_line("go on")
    signal.alarm(30)  # ends a process that hangs
    for thread in others:
        thread.join()
    publish("news", "last")


def lock_the_log() -> None:
    """Lock the row of the head until the test sends a line."""
    log.current_head()
    with transaction.atomic(), connections["default"].cursor() as cursor:
        cursor.execute("UPDATE streams_loghead SET head = head")
        send_line("locked")
        wait_for_line("go on")


def test_interrupted_publisher_delays_no_other(site: Site) -> None:
    locking = site.call(lock_the_log)
    locking.expect_line("locked")
    interrupted = site.call(interrupt_a_publisher)
    expect_line_soon(interrupted, "interrupted")
    locking.write_line("go on")
    finish(locking)
    interrupted.write_line("go on")
    finish(interrupted)
    data = assert_no_holes(site)
    assert data == ["other", "other", "last"]  # no other thread published the interrupted message
