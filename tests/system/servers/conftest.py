"""Servers that several tests share, each started once: every server, under Django's stock handler and under ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support import clients
from tests.support.sites import SERVERS, Server, Site, copy_sqlite

STOCK = "tests.support.asgi:application"
OURS = "project.asgi:application"


@pytest.fixture(scope="session", params=[(server, app) for server in SERVERS for app in (STOCK, OURS)], ids="-".join)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Server]]:
    """A site and its running server. Every server meets both databases: PostgreSQL under the stock handler."""
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
    """The shared server's site."""
    return shared[0]


@pytest.fixture
def shared_server(shared: tuple[Site, Server]) -> Server:
    """A running server with quick heartbeats. Tests take channels of their own, as the fixture `channel`."""
    return shared[1]


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """A public channel of the test's own."""
    return f"public.{request.function.__name__}"[:80]


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    """Close what a test's clients have left open."""
    yield
    clients.leave_all()
