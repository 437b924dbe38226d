"""The log in another database than the users: `migrate`, a suite of tests for the whole site, and a running server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import StreamClient
from tests.support.services.postgres import PostgresServer
from tests.support.sites import PYTHON, ROOT, Server, Site, finish

pytestmark = [pytest.mark.once, pytest.mark.slow]

SECONDS = 400


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The URLs of two empty databases."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'users.sqlite3'}", f"sqlite:///{tmp_path / 'log.sqlite3'}"
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return postgres.dsn(postgres.create_database()), postgres.dsn(postgres.create_database())


def env(urls: tuple[str, str]) -> dict[str, str]:
    return {
        "DATABASE_URL": urls[0],
        "LOG_DATABASE_URL": urls[1],
        "DJANGO_SETTINGS_MODULE": "tests.system.own_database.settings",
    }


def test_suite(urls: tuple[str, str]) -> None:
    tests = [
        "tests/system/own_database/suite.py",
        "tests/models/test_references.py",
        "tests/models/test_reference_locks.py",
        "tests/relay/test_deleted_users.py",
    ]
    done = subprocess.run(
        [PYTHON, "-m", "pytest", "--ds=tests.system.own_database.settings", "-q", "-m", "not once", *tests],
        env={**os.environ, **env(urls)},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout[-100_000:]


MAKE = """
from django.contrib.auth.models import User
from streams.relay.access import make_key
print(make_key(User.objects.create(username="ann"), 3600))
"""
DELETE = """
from django.contrib.auth.models import User
from streams.models import Message
from streams.relay.models import Generation, Usage
def look():
    print([row.user and row.user.username for row in Usage.objects.all()], Generation.objects.count())
look()
User.objects.get(username="ann").delete()
look()
"""


async def test_running_site(urls: tuple[str, str], tmp_path: Path) -> None:
    """Migrate both databases, publish, stream with a replay, stream an answer of the relay, and delete the user."""
    site = Site(urls[0], tmp_path)
    site.env.update(env(urls))
    try:
        await asyncio.to_thread(migrate, site)
        site.settings(RELAY_ACCESS="streams.relay.access.LoggedIn")
        server = site.serve()
        key = finish(site.script(MAKE)).strip()
        assert site.manage("publish", "news", "first").stdout == "1\n"
        client = await StreamClient(server.port, "/events/news/?last_event_id=0").connect()
        assert [event.data for event in await client.read_until(1)] == ["first"]
        assert site.manage("publish", "news", "second").stdout == "2\n"
        assert [event.data for event in await client.read_until(2)] == ["first", "second"]
        client.abort()

        asked = await asyncio.to_thread(ask, server, key)
        answer = await StreamClient(server.port, asked["events_url"]).connect()
        async with asyncio.timeout(60):
            while await answer.read():
                pass
        answer.abort()
        assert answer.events[-1].event == "end"
        assert json.loads(answer.events[-1].data)["state"] == "done"
        assert finish(site.script(DELETE)) == "['ann'] 1\n[None] 0\n"
    finally:
        site.close()


def migrate(site: Site) -> None:
    for alias in ("default", "log"):
        site.manage("migrate", "-v0", f"--database={alias}")
        assert site.manage("migrate", "--check", f"--database={alias}").returncode == 0
    site.manage("migrate", "-v0", "--database=log", "streams_relay", "zero")
    site.manage("migrate", "-v0", "--database=log", "streams", "zero")
    site.manage("migrate", "-v0", "--database=log")


def ask(server: Server, key: str) -> Any:
    request = urllib.request.Request(
        f"{server.url}/ai/generations/",
        json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)
