"""Shared running servers, each with Django's stock handler, Streams' application, and the one with the direct way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support import clients
from tests.support.sites import SERVERS, Server, Site, copy_sqlite

STOCK = "tests.support.asgi:application"
OURS = "project.asgi:application"
DIRECT = "tests.support.asgi_direct:application"

APPS = [(server, app) for server in SERVERS for app in (STOCK, OURS, DIRECT)]


@pytest.fixture(scope="session", params=APPS, ids="-".join)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Server]]:
    """Yield a site and its running server: PostgreSQL with the stock handler, SQLite with those of Streams."""
    server, app = request.param
    folder = tmp_path_factory.mktemp("site")
    if app == STOCK:
        postgres = request.getfixturevalue("postgres")
        database = postgres.create_database(template=request.getfixturevalue("migrated_postgres"))
        site = Site(postgres.dsn(database), folder, postgres)
    else:
        copy_sqlite(request.getfixturevalue("migrated_sqlite"), folder / "db.sqlite3")
        site = Site(f"sqlite:///{folder / 'db.sqlite3'}", folder)
    site.settings(HEARTBEAT_SECONDS=0.5)
    yield site, site.serve(server, app)
    site.close()


@pytest.fixture
def shared_site(shared: tuple[Site, Server]) -> Site:
    """Return the shared server's site."""
    return shared[0]


@pytest.fixture
def shared_server(shared: tuple[Site, Server]) -> Server:
    """Return a running server with frequent heartbeats. Each test uses its own channel; see the fixture `channel`."""
    return shared[1]


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """Return the name of a public channel that only this test uses."""
    return f"public.{request.function.__name__}"[:80]


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    """Close the connections that a test's clients left open."""
    yield
    clients.leave_all()
