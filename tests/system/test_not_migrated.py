"""On a site whose database was not migrated, every request and every publish fails at once, and names the remedy."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from streams.relay.models import ID_LENGTH
from tests.support import clients
from tests.support.clients import StreamClient
from tests.support.services.postgres import PostgresServer
from tests.support.sites import Server, Site, finish

pytestmark = pytest.mark.once

REMEDY = "run `manage.py migrate`"

# Less than the time for which a process waits for a database that does not answer.
AT_ONCE_SECONDS = 20.0


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A site with an empty database."""
    if request.param == "sqlite":
        site = Site(f"sqlite:///{tmp_path / 'db.sqlite3'}", tmp_path)
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        site = Site(postgres.dsn(postgres.create_database()), tmp_path, postgres)
    yield site
    site.close()
    clients.leave_all()


def migrate(site: Site, *target: str) -> None:
    site.manage("migrate", "-v0", *target)


def get(server: Server, path: str, data: bytes | None = None, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(server.url + path, data=data, headers=headers)
    began = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    finally:
        assert time.monotonic() - began < AT_ONCE_SECONDS


def try_to_publish() -> None:
    """Publish in several ways, and print the exceptions."""
    from django.db import transaction

    from streams import apublish, publish

    def in_transaction() -> None:
        with transaction.atomic():
            publish("news", "x")

    for way in (lambda: publish("news", "x"), in_transaction, lambda: asyncio.run(apublish("news", "x"))):
        try:
            way()
        except Exception as error:
            print(type(error).__name__, error, "BECAUSE", type(error.__cause__).__name__)
        connections.close_all()


def test_empty_database_is_reported_by_all(site: Site) -> None:
    server = site.serve()
    status, answer = get(server, "/events/news/")
    assert (status, answer["error"]["code"]) == (503, "undecided")
    assert REMEDY in answer["error"]["message"]

    ready = {"status": "unavailable", "database": "not-migrated", "notifier": "idle"}
    status, answer = get(server, "/api/health/ready")
    assert REMEDY in answer.pop("problem")
    assert (status, answer) == (503, ready)

    status, answer = get(server, "/api/channels/news/messages/")
    assert (status, answer["error"]["code"]) == (503, "unavailable")
    assert REMEDY in answer["error"]["message"]

    question = json.dumps({"messages": [{"role": "user", "content": "?"}]}).encode()
    one = f"/ai/generations/{'a' * ID_LENGTH}/"
    for path, body in (("/ai/generations/", question), (one, None), (f"{one}events/", None)):
        status, answer = get(server, path, body, **{"Content-Type": "application/json"})
        assert (status, path) == (503, path)
        assert REMEDY in answer["error"]["message"]

    lines = finish(site.call(try_to_publish)).splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("NotMigrated ")
        assert REMEDY in line
        assert "(no such table: streams_" in line or '(relation "streams_' in line, "the missing table is not named"
    assert server.log.read_text().count(REMEDY) >= 1

    migrate(site)
    assert get(server, "/api/health/ready")[0] == 200
    assert finish(site.call(try_to_publish)) == ""


async def test_earlier_migration_is_reported_by_streams(site: Site) -> None:
    """The channels' rules can be read, but the log cannot. The stream ends, and an EventSource tries again later."""
    await asyncio.to_thread(migrate, site)
    await asyncio.to_thread(migrate, site, "streams", "0003")
    server = site.settings(PRESENCE_SECONDS=0.5, POLL_SECONDS=0.2).serve()
    for _ in range(3):
        began = time.monotonic()
        client = await StreamClient(server.port, "/events/news/").connect()
        assert client.status == 200
        while await client.read():
            pass
        assert time.monotonic() - began < AT_ONCE_SECONDS
        [error] = [event for event in client.control if event.event == "stream-error"]
        assert json.loads(error.data)["code"] == "not-migrated"
        assert REMEDY in json.loads(error.data)["message"]
    status, answer = await asyncio.to_thread(get, server, "/api/health/ready")
    assert (status, answer["database"]) == (503, "not-migrated")
    assert server.log.read_text().count(REMEDY) == 1, "not logged once for all streams"
    lines = (await asyncio.to_thread(finish, site.call(try_to_publish))).splitlines()
    assert [line.split()[0] for line in lines] == ["NotMigrated"] * 3, lines

    await asyncio.to_thread(migrate, site)
    assert (await asyncio.to_thread(get, server, "/api/health/ready"))[0] == 200
    client = await StreamClient(server.port, "/events/news/").connect()
    assert [event.event for event in await client.read_control(1)] == ["stream-checkpoint"]


def test_tables_are_looked_for_until_they_are_found(site: Site) -> None:
    """A process that has found them does not check again at each request."""
    migrate(site)
    server = site.serve()
    counts = []
    for _ in range(3):
        server.json("/test/queries/")
        assert get(server, "/api/health/ready")[0] == 200
        counts.append(len(server.json("/test/queries/")["queries"]))
    assert counts[0] > 5
    assert counts[1:] == [1, 1]
