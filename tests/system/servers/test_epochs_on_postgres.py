"""PostgreSQL servers that lose messages: a lagging standby is promoted, a crash, a restored data directory."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import _migrate
from tests.support.histories import (
    LOST,
    NEW,
    OLD,
    assert_returning_clients,
    comes_back,
    grow,
    publish_each,
    resets,
    texts,
)
from tests.support.services import wait_until
from tests.support.services.postgres import PostgresServer, programs
from tests.support.sites import Site, finish

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.skipif(programs() is None, reason="needs PostgreSQL")]


# Nothing but a checkpoint writes the WAL to the disk. The background writer and autovacuum would do so sooner or later.
NOT_DURABLE = {"synchronous_commit": "off", "bgwriter_lru_maxpages": "0", "autovacuum": "off"}


class Standby(PostgresServer):
    """A standby that follows a running server. It takes over the server's port after that server has stopped."""

    def __init__(self, primary: PostgresServer) -> None:
        self.primary = primary
        super().__init__(fsync=True)

    def _make(self) -> None:
        source = ("-h", "127.0.0.1", "-p", self.primary.port, "-U", "streams")
        self.run(
            "pg_basebackup", *source, "-D", self.folder / "data", "-R", "-X", "stream", "--checkpoint=fast", "--no-sync"
        )


@contextlib.contextmanager
def site_on(postgres: PostgresServer, folder: Path) -> Iterator[Site]:
    try:
        postgres.start()
        url = postgres.dsn(postgres.create_database())
        _migrate(url)
        site = Site(url, folder, postgres)
        try:
            yield site
        finally:
            site.close()
    finally:
        postgres.remove()


@pytest.mark.parametrize("moment", ["running", "stopped"])
async def test_promoted_standby_that_lags_resets_clients_above(tmp_path: Path, moment: str) -> None:
    primary = PostgresServer(fsync=True)
    with site_on(primary, tmp_path) as site:
        server = site.serve()
        await grow(site, OLD)
        standby = await asyncio.to_thread(Standby, primary)
        try:
            await grow(site, LOST)
            live = await comes_back(server.port, 149, 1)
            if moment == "stopped":
                await asyncio.to_thread(server.stop)
            await asyncio.to_thread(primary.stop, signal.SIGQUIT)
            standby.port = primary.port
            await asyncio.to_thread(standby.start)
            await asyncio.to_thread(standby.execute, "SELECT pg_promote()")
            await asyncio.to_thread(finish, site.call(publish_each, *NEW))
            if moment == "stopped":
                await asyncio.to_thread(server.start)
            else:
                await live.read_until(1 + 160)
                assert (texts(live), resets(live)) == (LOST[-1:] + OLD + NEW, [("unknown-id", "150")])
            await assert_returning_clients(server.port)
        finally:
            await asyncio.to_thread(standby.remove)


def find_process(postgres: PostgresServer, title: str) -> psutil.Process:
    children = psutil.Process(postgres.pid).children()
    return next(child for child in children if title in " ".join(child.cmdline()))


@pytest.mark.parametrize("crash", ["machine", "backend"])
async def test_crash_without_durable_commits_resets_clients_above(tmp_path: Path, crash: str) -> None:
    """The WAL writer is suspended, so commits after position 100 never reach the disk."""
    postgres = PostgresServer(fsync=True, options=NOT_DURABLE)
    with site_on(postgres, tmp_path) as site:
        server = site.serve()
        await grow(site, OLD)
        site.execute("CHECKPOINT")
        find_process(postgres, "walwriter").suspend()
        await grow(site, LOST)
        live = await comes_back(server.port, 149, 1)
        if crash == "machine":
            processes = [psutil.Process(postgres.pid), *psutil.Process(postgres.pid).children()]
            for process in processes:
                process.kill()
            await asyncio.to_thread(postgres.stop)
            await asyncio.to_thread(postgres.start)
        else:
            find_process(postgres, "streams_0").kill()
            await asyncio.to_thread(wait_until, postgres.is_ready, "PostgreSQL's recovery")
        [(head,)] = site.execute("SELECT max(position) FROM streams_message WHERE position < 1000")
        assert head == 100, "the crash should have lost the messages after 100"
        await asyncio.to_thread(finish, site.call(publish_each, *NEW))
        await live.read_until(1 + 160)
        assert (texts(live), resets(live)) == (LOST[-1:] + OLD + NEW, [("unknown-id", "150")])
        await assert_returning_clients(server.port)


@pytest.mark.parametrize("moment", ["running", "stopped"])
async def test_data_directory_put_back_resets_clients_above(tmp_path: Path, moment: str) -> None:
    """PostgreSQL cannot detect this. A process that keeps running does; otherwise the operator runs the command."""
    postgres = PostgresServer(fsync=True)
    with site_on(postgres, tmp_path) as site:
        data, copy = postgres.folder / "data", postgres.folder / "copy"
        await grow(site, OLD)
        await asyncio.to_thread(postgres.stop)
        subprocess.run(["cp", "-a", data, copy], check=True)
        await asyncio.to_thread(postgres.start)
        server = site.serve()
        await grow(site, LOST)
        live = await comes_back(server.port, 149, 1)
        if moment == "stopped":
            await asyncio.to_thread(server.stop)
        await asyncio.to_thread(postgres.stop, signal.SIGQUIT)
        shutil.rmtree(data)
        copy.rename(data)
        await asyncio.to_thread(postgres.start)
        if moment == "stopped":
            await asyncio.to_thread(site.manage, "start_new_epoch")
        await asyncio.to_thread(finish, site.call(publish_each, *NEW))
        if moment == "stopped":
            await asyncio.to_thread(server.start)
        else:
            await live.read_control(3)
            seen = len(live.events)
            await live.read_until(seen + 160)
            assert texts(live)[seen:] == OLD + NEW
            assert [reason for reason, _ in resets(live)] == ["unknown-id"]
        await assert_returning_clients(server.port)
