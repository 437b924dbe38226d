"""Pruning in several processes: one of them prunes, and publishers do not wait for it."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import pytest
from django.db import connections, transaction

from streams import NewMessage, log, publish, publish_many
from streams.log import retention
from tests.support.clients import StreamClient
from tests.support.services import wait_until
from tests.support.sites import Site, finish

pytestmark = pytest.mark.once


def fill(count: str) -> None:
    """Publish messages of more than 200 bytes to the channel `busy`, a thousand at a time."""
    for start in range(0, int(count), 1000):
        publish_many([NewMessage("busy", f"{start + n} " + "x" * 200) for n in range(1000)])


# --- Which process prunes ---------------------------------------------------------------------------------------------


def prune_once() -> None:
    print(retention.prune_if_due())


def prune_when_asked() -> None:
    """Wait for a line from the test, then prune if it is due. Print the number of pruned messages."""
    print("ready", flush=True)
    sys.stdin.readline()
    print(retention.prune_if_due())


def test_one_of_many_processes_prunes(site: Site) -> None:
    finish(site.call(fill, 2000))
    site.settings(RETENTION_MESSAGES_PER_CHANNEL=500)
    processes = [site.call(prune_when_asked) for _ in range(3)]
    for process in processes:
        process.expect_line("ready")
    for process in processes:
        process.write_line()
    assert sorted(int(finish(process)) for process in processes) == [0, 0, 1500]
    assert site.execute("SELECT min(position), count(*) FROM streams_message") == [(1501, 500)]


async def test_process_with_a_stream_prunes(site: Site) -> None:
    finish(site.call(fill, 1000))
    site.settings(RETENTION_MESSAGES_PER_CHANNEL=10, PRUNE_SECONDS=0.2)
    server = site.serve()
    client = await StreamClient(server.port, "/events/news/").connect()
    await client.read_control(1)
    for _ in range(300):
        if site.execute("SELECT count(*) FROM streams_message") == [(10,)]:
            break
        await client.read_for(0.1)
    assert site.execute("SELECT count(*) FROM streams_message") == [(10,)]
    assert site.execute("SELECT name, pruned_through FROM streams_channel") == [("busy", 990)]
    await client.close()


def prune_and_hang() -> None:
    def hang(**kwargs: Any) -> bool:
        print("pruning", flush=True)
        sys.stdin.readline()
        return True

    log.forget_pruned_channels = hang  # type: ignore[assignment]
    retention.prune_if_due()


def test_pruning_of_dead_process_is_taken_over(site: Site) -> None:
    finish(site.call(fill, 1000))
    site.settings(RETENTION_MESSAGES_PER_CHANNEL=500, PRUNE_SECONDS=3600)
    dying = site.call(prune_and_hang)
    dying.expect_line("pruning")
    dying.kill()
    site.settings(RETENTION_MESSAGES_PER_CHANNEL=100)
    assert finish(site.call(prune_once)) == "0\n"
    then = "now() + interval '301 seconds'" if site.is_postgres else "datetime('now', '301 seconds')"
    assert site.execute(f"SELECT expires_at < {then} FROM streams_lease") == [(1,)]
    site.execute("UPDATE streams_lease SET expires_at = '2001-01-01'")
    assert finish(site.call(prune_once)) == "400\n"


# --- At the same time as other processes ------------------------------------------------------------------------------


def publish_until_stopped() -> None:
    """Publish until a line comes. Print the number of messages, and the seconds that the slowest one took."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    print("ready", flush=True)
    took = []
    while not stop.is_set():
        begun = time.monotonic()
        publish("live", "x")
        took.append(time.monotonic() - begun)
        time.sleep(0.005)
    print(json.dumps([len(took), max(took)]))


@pytest.mark.slow
def test_publishers_go_on_during_pruning(site: Site) -> None:
    finish(site.call(fill, 20_000))
    site.settings(RETENTION_MESSAGES_PER_CHANNEL=100)
    publishing = site.call(publish_until_stopped)
    publishing.expect_line("ready")
    before = site.execute("SELECT count(*) FROM streams_message WHERE channel = 'live'")[0][0]
    pruned = site.manage("prune_messages").stdout
    during = site.execute("SELECT count(*) FROM streams_message WHERE channel = 'live'")[0][0] - before
    publishing.write_line()
    count, longest = json.loads(finish(publishing))
    assert site.execute("SELECT count(*) FROM streams_message WHERE channel = 'busy'") == [(100,)], pruned
    assert during > 5
    assert longest < 5, f"one of {count} took {longest} s"
    (head,) = site.execute("SELECT head FROM streams_loghead")[0]
    assert head == 20_000 + count


def prune_all(through: str, channel: str) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    while log.delete_through(int(through), channel=channel or None, limit=50):
        pass


def test_concurrent_prunings_record_the_furthest(site: Site) -> None:
    finish(site.call(fill, 2000))
    processes = [site.call(prune_all, 1500, "busy"), site.call(prune_all, 1000, ""), site.call(prune_all, 500, "")]
    for process in processes:
        process.expect_line("ready")
    for process in processes:
        process.write_line()
    for process in processes:
        finish(process)
    assert site.execute("SELECT min(position), count(*) FROM streams_message") == [(1501, 500)]
    assert site.execute("SELECT name, pruned_through FROM streams_channel") == [("busy", 1500)]


def overtake() -> None:
    """Hold the lock of prunings while another pruning begins, and then prune further than that one."""
    log.delete_through(1, channel="busy", limit=1)  # creates the records
    with transaction.atomic():
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT * FROM streams_logsize FOR UPDATE")
        print("locked", flush=True)
        sys.stdin.readline()
        log.delete_through(50, channel="busy", limit=100)


def test_overtaken_pruning_keeps_the_record(postgres_site: Site) -> None:
    """Otherwise a reader whose cursor is in between would never learn that it has missed messages."""
    finish(postgres_site.call(fill, 1000))
    overtaking = postgres_site.call(overtake)
    overtaking.expect_line("locked")
    slow = postgres_site.call(prune_all, 20, "")
    slow.expect_line("ready")
    slow.write_line()
    blocked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    wait_until(lambda: postgres_site.execute(blocked), "waiting for the record")
    overtaking.write_line()
    finish(overtaking)
    finish(slow)
    assert postgres_site.execute("SELECT min(position) FROM streams_message") == [(51,)]
    assert postgres_site.execute("SELECT name, pruned_through FROM streams_channel") == [("busy", 50)]


def count_and_print() -> None:
    while log.count_size(step=50):
        pass
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(200):
        log.count_size(step=7)


def count_all() -> None:
    while log.count_size():
        pass


def test_size_is_exact_beside_other_processes(site: Site) -> None:
    finish(site.call(fill, 3000))
    processes = [site.call(count_and_print) for _ in range(2)]
    processes += [site.call(prune_all, 1500, "busy"), site.call(prune_all, 2000, "")]
    for process in processes:
        process.expect_line("ready")
    for process in processes:
        process.write_line()
    finish(site.call(fill, 1000))
    for process in processes:
        finish(process)
    finish(site.call(count_all))
    [(total,)] = site.execute("SELECT sum(size) FROM streams_message")
    assert site.execute("SELECT through, bytes FROM streams_logsize") == [(4000, total)]
