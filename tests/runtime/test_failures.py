"""Each process logs an outage once, however many parts of it fail and however often."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from django.db import IntegrityError, OperationalError
from django.test import override_settings

from streams.runtime.failures import LISTENING, Backoff, Outage, report
from tests.support import clients
from tests.support.clients import StreamClient
from tests.support.services.redis import RedisServer
from tests.support.sites import Server, Site, copy_sqlite

logger = logging.getLogger("streams")


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    yield
    clients.leave_all()


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def fail(outage: Outage, what: str, kind: object = None) -> None:
    try:
        raise ConnectionError("no server")
    except ConnectionError:
        outage.record_failure(logger, what, kind)


def test_outage_is_told_with_its_stack_once_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streams")
    outage = Outage("it works")
    outage.recovered()
    for what in ("a", "b", "c"):
        fail(outage, what)
    outage.recovered()
    outage.recovered()
    fail(outage, "d")
    assert logged(caplog) == ["a", "it works", "d"]
    assert caplog.records[0].exc_info is not None
    assert caplog.records[1].levelno == logging.INFO


def test_what_fails_otherwise_is_told_also_during_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    for error in (OperationalError, IntegrityError, OperationalError, RuntimeError, RuntimeError):
        try:
            raise error("x")
        except Exception:
            report(logger, error.__name__)
    assert logged(caplog) == ["OperationalError", "IntegrityError", "RuntimeError", "RuntimeError"]


async def test_run_of_failures_is_told_once_by_all_that_wait_for_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streams")
    outage = Outage("it works")
    one, other = (Backoff(logger, name, max_seconds=0, outage=outage) for name in ("one", "other"))
    for backoff in (one, other, one, other):
        try:
            raise ConnectionError("no server")
        except ConnectionError:
            await backoff.wait()
    one.reset()
    other.reset()
    assert logged(caplog) == ["one", "it works"]


def test_new_settings_have_a_new_notifier_that_has_not_failed_yet(caplog: pytest.LogCaptureFixture) -> None:
    fail(LISTENING, "the old one")
    with override_settings(STREAMS={}):
        fail(LISTENING, "the new one")
    assert logged(caplog) == ["the old one", "the new one"]


# --- Real servers -----------------------------------------------------------------------------------------------------


def logged_tracebacks(server: Server) -> list[str]:
    """Return the log messages of the server that have a traceback."""
    return re.findall(r" (?:ERROR|WARNING) ([a-z._]+: .*)\nTraceback", server.log.read_text())


async def visit(server: Server, channel: str) -> bytes:
    """Open a stream, read its first control event, and disconnect."""
    client = await StreamClient(server.port, f"/events/{channel}/").connect()
    assert client.status == 200
    await client.read_control(1)
    client.abort()
    await asyncio.sleep(0.1)
    return bytes(client.raw)


async def connect(server: Server, channel: str) -> StreamClient:
    client = await StreamClient(server.port, f"/events/{channel}/").connect()
    await client.read_control(1)
    return client


@pytest.mark.once
async def test_database_that_is_away_is_told_once_however_many_streams_come(postgres_site: Site) -> None:
    postgres = postgres_site.settings(PRESENCE_SECONDS=0.5).postgres
    assert postgres is not None
    server = postgres_site.serve()
    for outage in (1, 2):
        await visit(server, "public.away")
        await asyncio.to_thread(postgres.stop)
        try:
            for _ in range(5):
                assert b"event: stream-error" in await visit(server, "public.away")
        finally:
            await asyncio.to_thread(postgres.start)
        assert len(logged_tracebacks(server)) == outage, logged_tracebacks(server)


@pytest.mark.once
async def test_database_that_is_away_is_told_once_beside_open_streams(postgres_site: Site) -> None:
    postgres = postgres_site.settings(PRESENCE_SECONDS=0.5, POLL_SECONDS=0.2, HEARTBEAT_SECONDS=0.5).postgres
    assert postgres is not None
    server = postgres_site.serve()
    client = await connect(server, "public.beside")
    await asyncio.to_thread(postgres.stop)
    try:
        client.last_event_id = "0"
        for _ in range(3):
            await client.read_for(1)
            # The answer to this cursor needs the log.
            back = StreamClient(server.port, "/events/public.beside/", last_event_id="999")
            await back.connect()
            await back.read_control(1)
            back.abort()
    finally:
        await asyncio.to_thread(postgres.start)
    assert len(logged_tracebacks(server)) == 1, logged_tracebacks(server)


@pytest.mark.once
async def test_notifier_that_hears_nothing_is_told_once_over_the_visits_of_one_client(
    redis: RedisServer, migrated_sqlite: Path, tmp_path: Path
) -> None:
    copy_sqlite(migrated_sqlite, tmp_path / "db.sqlite3")
    site = Site(f"sqlite:///{tmp_path / 'db.sqlite3'}", tmp_path)
    site.env["REDIS_URL"] = redis.url
    site.settings(NOTIFIER={"BACKEND": "streams.notifiers.channel_layer.ChannelLayerNotifier"}, HEARTBEAT_SECONDS=0.5)
    try:
        server = site.serve()
        await asyncio.to_thread(redis.stop)
        try:
            for _ in range(4):
                client = await connect(server, "public.visits")
                await client.read_for(0.5)
                client.abort()
                await asyncio.sleep(0.2)
        finally:
            await asyncio.to_thread(redis.start)
        assert logged_tracebacks(server) == [
            "streams.hub: The notifier's listener failed; until it is back, messages are found by polling the log."
        ]
        client = await connect(server, "public.visits")
        while "The notifier's listener works again." not in server.log.read_text():
            assert await client.read()
    finally:
        site.close()
