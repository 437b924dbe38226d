"""A site that reaches its database through PgBouncer, which usually pools transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from django.db import connections

from streams import notifiers
from streams.notifiers import pooler_detection
from streams.notifiers.postgres import PostgresNotifier
from tests.support import clients
from tests.support.services import missing, pgbouncer
from tests.support.services.pgbouncer import PgBouncer
from tests.support.services.postgres import PostgresServer
from tests.support.sites import Site
from tests.system.notifiers.test_processes import NOTIFIERS, listening
from tests.system.servers.holdings import publish

pytestmark = pytest.mark.once

WARNING = "PostgresNotifier cannot receive notices: its connection goes through a pooler that does not keep sessions"


@pytest.fixture
def site(postgres: PostgresServer, migrated_postgres: str, tmp_path: Path) -> Iterator[Site]:
    """A site whose processes reach the database only through PgBouncer."""
    if pgbouncer.program() is None:
        missing("PgBouncer", "pgbouncer")
    database = postgres.create_database(template=migrated_postgres)
    bouncer = PgBouncer(postgres).start()
    site = Site(postgres.dsn(database), tmp_path, postgres)
    site.env["DATABASE_URL"] = f"{bouncer.dsn(database)}?DISABLE_SERVER_SIDE_CURSORS=true"
    site.settings(HEARTBEAT_SECONDS=0.5)
    yield site
    site.close()
    bouncer.remove()


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    yield
    clients.leave_all()


def notifier(**options: str) -> dict[str, object]:
    return {"BACKEND": NOTIFIERS["postgres"], "OPTIONS": options}


async def listened_for(dsn: str) -> list[str]:
    """Return the channels that the pool's three connections listen to. Each is queried in its own transaction."""
    pooled = [await psycopg.AsyncConnection.connect(dsn) for _ in range(3)]
    try:
        asked = [await connection.execute("SELECT pg_listening_channels()") for connection in pooled]
        return [name for found in asked for (name,) in await found.fetchall()]
    finally:
        for connection in pooled:
            await connection.close()


async def test_with_a_dsn_that_goes_past_it_news_arrive_at_once(site: Site) -> None:
    site.settings(NOTIFIER=notifier(dsn=site.database_url), POLL_SECONDS=600)
    one, other = site.serve(), site.serve()
    client = await listening(one, other, "public.past")
    for number in range(1, 6):  # on any connection of the pool
        await publish(other, "public.past", n=2)
        assert len(await client.read_until(2 * number)) == 2 * number
    site.manage("publish", "public.past", "from a command")
    assert (await client.read_until(11))[-1].data == "from a command"
    assert WARNING not in one.log.read_text()


async def test_without_one_it_is_said_and_polling_delivers(site: Site) -> None:
    site.settings(NOTIFIER=notifier(), POLL_SECONDS=0.5)
    one, other = site.serve(), site.serve()
    client = await listening(one, other, "public.through")
    await publish(other, "public.through", n=3)
    assert len(await client.read_until(3)) == 3
    while WARNING not in one.log.read_text():
        assert await client.read(), "the stream has ended"


async def test_nothing_is_listened_for_on_connections_that_the_pooler_gives_to_others(site: Site) -> None:
    """A publisher that uses such a connection would receive its own notices, and they would pile up."""
    site.settings(NOTIFIER=notifier(), POLL_SECONDS=0.5)
    running = site.serve()
    client = await listening(running, running, "public.left")
    while WARNING not in running.log.read_text():
        assert await client.read()
    for _ in range(3):  # each new hub tries again at once
        client.abort()
        client = await listening(running, running, "public.left")
    assert await listened_for(site.env["DATABASE_URL"].partition("?")[0]) == []


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("round_robin", [False, True])
async def test_pooler_is_detected_before_listen(
    postgres: PostgresServer, settings_database: str, mode: str, round_robin: bool
) -> None:
    if pgbouncer.program() is None:
        missing("PgBouncer", "pgbouncer")
    bouncer = PgBouncer(postgres, mode, round_robin=round_robin).start()
    dsn = bouncer.dsn(connections.settings[settings_database]["NAME"])

    async def connect() -> pooler_detection.Connection:
        return await psycopg.AsyncConnection.connect(dsn, autocommit=True)

    try:
        for busy in (1, 2, 3):  # the number of connections in the pool
            others = [await connect() for _ in range(busy)]
            await asyncio.gather(*(other.execute("SELECT pg_sleep(0.2)") for other in others))
            one = await connect()
            process = await pooler_detection.server_process(one, 10)
            assert process != one.info.backend_pid
            assert not await pooler_detection.keeps_session(one, process, connect, 10)
            for connection in (one, *others):
                await connection.close()
    finally:
        bouncer.remove()


async def test_pooler_that_seems_to_keep_sessions_is_found_by_the_missing_ping(
    postgres: PostgresServer, settings_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pgbouncer.program() is None:
        missing("PgBouncer", "pgbouncer")
    monkeypatch.setattr(pooler_detection, "ROUNDS", 0)
    monkeypatch.setattr(notifiers.postgres, "ANSWER_SECONDS", 1.0)
    bouncer = PgBouncer(postgres).start()
    try:
        dsn = bouncer.dsn(connections.settings[settings_database]["NAME"])
        with pytest.raises(ConnectionError) as error:
            await anext(PostgresNotifier(dsn, database=settings_database).listen())
        assert WARNING in str(error.value.__cause__)
        assert await listened_for(dsn) == []
    finally:
        bouncer.remove()


async def test_pooler_that_keeps_sessions_is_no_trouble(
    postgres: PostgresServer, migrated_postgres: str, tmp_path: Path
) -> None:
    if pgbouncer.program() is None:
        missing("PgBouncer", "pgbouncer")
    database = postgres.create_database(template=migrated_postgres)
    bouncer = PgBouncer(postgres, "session", size=20).start()
    site = Site(postgres.dsn(database), tmp_path, postgres)
    site.env["DATABASE_URL"] = bouncer.dsn(database)
    site.settings(NOTIFIER=notifier(), POLL_SECONDS=600, HEARTBEAT_SECONDS=0.5)
    try:
        running = site.serve()
        client = await listening(running, running, "public.sessions")
        site.manage("publish", "public.sessions", "from a command")
        assert (await client.read_until(1))[-1].data == "from a command"
        assert WARNING not in running.log.read_text()
    finally:
        site.close()
        bouncer.remove()
