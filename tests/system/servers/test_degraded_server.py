"""A server whose asgiref lacks the internals that Streams uses: each stream keeps a thread, and all else works."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.clients import StreamClient, leave_all
from tests.support.services import wait_until
from tests.support.services.postgres import PostgresServer
from tests.support.sites import Site
from tests.system.servers.holdings import holds, publish

STREAMS = 20
MAX_CONNECTIONS = 6

pytestmark = pytest.mark.once


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
async def test_streams_keep_a_thread_each_and_work(postgres_site: Site, postgres: PostgresServer, server: str) -> None:
    running = postgres_site.settings(HEARTBEAT_SECONDS=1).serve(server, "tests.private.asgi:application")
    database = postgres_site.database_url.rpartition("/")[2]
    cookie = await asyncio.to_thread(running.log_in, "reader")
    [(pk,)] = postgres_site.execute("SELECT id FROM auth_user WHERE username = 'reader'")
    path = f"/events/user.{pk}/"
    clients = [await StreamClient(running.port, path, {"Cookie": cookie}).connect() for _ in range(STREAMS)]
    found = await holds(running, subscribers=STREAMS, streams=STREAMS)
    assert found["threads"] >= STREAMS, "each stream should keep a thread"
    await asyncio.to_thread(wait_until, lambda: postgres.connections(database) <= MAX_CONNECTIONS, "few connections")
    await publish(running, f"user.{pk}")
    for client in clients:
        assert len(await client.read_until(1)) == 1
    began = time.monotonic()
    await asyncio.to_thread(running.stop)
    leave_all()
    assert time.monotonic() - began < 10, "the streams should end with their server"
    text = running.log.read_text()
    assert text.count("has no SyncToAsync.thread_sensitive_context. Each open stream keeps a thread.") == 1
    assert "Traceback" not in text
