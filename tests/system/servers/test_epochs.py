"""After a backup is restored, clients with a cursor in the lost history get a reset, and all others continue exactly.

The backup is taken at position 100, the log grows to 150, the backup is restored, and 60 messages follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.clients import StreamClient
from tests.support.forks import ForkedProcess
from tests.support.histories import (
    LOST,
    NEW,
    OLD,
    assert_returning_clients,
    comes_back,
    grow,
    publish_each,
    publish_together,
    resets,
    texts,
)
from tests.support.services import suspended
from tests.support.sites import Server, Site, finish

pytestmark = pytest.mark.once

TABLES = ("message", "loghead", "channel", "epoch")

# --- Backups ----------------------------------------------------------------------------------------------------------


def backup(site: Site) -> Path:
    """Dump the whole database to a file."""
    if site.postgres is not None:
        target = site.postgres.folder / f"{site.database_url.rpartition('/')[2]}.dump"
        site.postgres.run("pg_dump", "-Fc", "-f", target, site.database_url)
    else:
        target = site.folder / "backup"
        with (
            contextlib.closing(sqlite3.connect(path_of(site))) as live,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            live.backup(copy)
    return target


def path_of(site: Site) -> Path:
    return Path(site.database_url.removeprefix("sqlite:///"))


def restore(site: Site, copy: Path, *, in_place: bool = True) -> None:
    """Replace the database with the backup.

    On PostgreSQL, a new database takes the old one's name. On SQLite, `in_place` copies the backup through SQLite into
    the file, which processes have open. Without `in_place`, the file itself is replaced.
    """
    if site.postgres is None and in_place:
        with (
            contextlib.closing(sqlite3.connect(copy)) as source,
            contextlib.closing(sqlite3.connect(path_of(site))) as live,
        ):
            source.backup(live)
        return
    if site.postgres is None:
        fresh = site.folder / "fresh"
        shutil.copy(copy, fresh)
        for suffix in ("-wal", "-shm"):
            path_of(site).with_name(path_of(site).name + suffix).unlink(missing_ok=True)
        os.replace(fresh, path_of(site))
        return
    fresh = site.postgres.create_database("template0")
    site.postgres.run("pg_restore", "-d", site.postgres.dsn(fresh), copy)
    name = site.database_url.rpartition("/")[2]
    site.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
    site.postgres.execute(f"ALTER DATABASE {fresh} RENAME TO {name}")


def copy_rows(site: Site) -> None:
    for table in TABLES:
        site.execute(f"CREATE TABLE backup_{table} AS SELECT * FROM streams_{table}")


def put_rows_back(site: Site) -> None:
    """Restore the rows within the same tables, which leaves no trace that the database could detect."""
    statements = [f"DELETE FROM streams_{t}; INSERT INTO streams_{t} SELECT * FROM backup_{t};" for t in TABLES]
    if site.is_postgres:
        site.execute(" ".join(statements))
        return
    with contextlib.closing(sqlite3.connect(path_of(site), timeout=2)) as connection:
        connection.executescript(" ".join(["BEGIN IMMEDIATE;", *statements, "COMMIT;"]))


# --- What clients see -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["running", "stopped"])
async def test_clients_come_back_to_a_restored_log(site: Site, moment: str) -> None:
    server = site.serve()
    await grow(site, OLD)
    copy = await asyncio.to_thread(backup, site)
    await grow(site, LOST)
    live = await comes_back(server.port, 149, 1)
    if moment == "stopped":
        await asyncio.to_thread(server.stop)
    await asyncio.to_thread(restore, site, copy, in_place=moment == "running")
    await asyncio.to_thread(finish, site.call(publish_each, *NEW))
    if moment == "stopped":
        await asyncio.to_thread(server.start)
    else:
        await live.read_control(3, timeout=30)
        before = texts(live)
        await live.read_until(len(before) + 160, timeout=30)
        assert texts(live)[len(before) :] == OLD + NEW
        assert [reason for reason, _ in resets(live)] == ["unknown-id"]
    await assert_returning_clients(server.port)


async def test_live_stream_of_a_quiet_channel_goes_on_after_a_restore(site: Site) -> None:
    server = site.serve()
    await grow(site, OLD)
    quiet = StreamClient(server.port, "/events/public.quiet/")
    await quiet.connect()
    await quiet.read_control(1)
    copy = await asyncio.to_thread(backup, site)
    await grow(site, LOST)
    await comes_back(server.port, 149, 1)  # so that the server has read the log up to here
    await asyncio.to_thread(restore, site, copy)
    await grow(site, NEW)
    await asyncio.to_thread(site.manage, "publish", "public.quiet", "after all")
    await quiet.read_until(1, timeout=30)
    if not texts(quiet):  # the stream ended, because the database was replaced while it was reading; reconnect
        assert quiet.control[-1].event == "stream-error"
        await quiet.connect()
        await quiet.read_until(1, timeout=30)
    assert (texts(quiet), resets(quiet)) == (["after all"], [])


async def test_log_restored_twice_resets_clients_of_both_lost_histories(site: Site) -> None:
    server = site.serve()
    await grow(site, OLD)
    copy = await asyncio.to_thread(backup, site)
    await grow(site, LOST)

    async def go_back(texts: list[str]) -> None:
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(restore, site, copy, in_place=False)
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(finish, site.call(publish_each, *texts))

    await go_back([f"lost too {n}" for n in range(60)])
    lost_too = await comes_back(server.port, 100, 30)
    await lost_too.close()
    await go_back(NEW)
    cursor = int(lost_too.last_event_id)
    client = await comes_back(server.port, cursor, 160)
    assert (texts(client), resets(client)) == (OLD + NEW, [("unknown-id", str(cursor))])
    await assert_returning_clients(server.port)


# --- Restores that the database cannot detect -------------------------------------------------------------------------


async def go_back_unseen(site: Site, server: Server, publish: Callable[[], ForkedProcess]) -> None:
    """Restore the rows and publish before the server can read the log."""
    while True:
        with suspended(server.pid):
            try:
                await asyncio.to_thread(put_rows_back, site)
            except sqlite3.OperationalError:
                continue  # the server was suspended while it held the lock
            await asyncio.to_thread(finish, publish())
            return


@pytest.mark.parametrize("publishing", [publish_each, publish_together])
async def test_publisher_faster_than_the_hub_leaves_no_gap(site: Site, publishing: Callable[..., None]) -> None:
    """When the hub reads the log, the head is above the hub's position again."""
    server = site.serve()
    await grow(site, OLD)
    await asyncio.to_thread(copy_rows, site)
    await grow(site, LOST)
    live = await comes_back(server.port, 50, 100)
    await go_back_unseen(site, server, lambda: site.call(publishing, *NEW))
    await live.read_control(3, timeout=30)
    seen = texts(live)[100:]
    await live.read_until(100 + len(seen) + 160, timeout=30)
    assert resets(live)
    assert texts(live)[100 + len(seen) :] == OLD + NEW
    assert resets(live)[0][0] == "unknown-id"
    await assert_returning_clients(server.port)


async def test_same_text_in_both_histories_leaves_no_gap(site: Site) -> None:
    """A message's bytes do not show which history it belongs to."""
    server = site.serve()
    await grow(site, ["changed"] * 100)
    await asyncio.to_thread(copy_rows, site)
    await grow(site, ["changed"] * 50)
    live = await comes_back(server.port, 50, 100)
    await asyncio.sleep(2.5)  # so that the hub has polled
    await go_back_unseen(site, server, lambda: site.call(publish_each, *["changed"] * 60))
    await live.read_control(3, timeout=30)
    assert resets(live) == [("unknown-id", "150")]
    client = await comes_back(server.port, 120, 160)
    assert resets(client) == [("unknown-id", "120")]


async def test_head_that_goes_back_under_an_open_stream_leaves_no_gap(site: Site) -> None:
    server = site.serve()
    await grow(site, OLD[:8])
    await asyncio.to_thread(copy_rows, site)
    await grow(site, OLD[8:11])
    live = await comes_back(server.port, 0, 11)
    await go_back_unseen(site, server, lambda: site.call(publish_together, *NEW[:5]))
    await live.read_control(3, timeout=30)
    at = len(live.events)
    await live.read_until(at + 13, timeout=30)
    assert resets(live)[0][0] == "unknown-id"
    assert texts(live)[-13:] == OLD[:8] + NEW[:5]
    returning = await comes_back(server.port, 8, 5)
    assert (texts(returning), resets(returning)) == (NEW[:5], [])
