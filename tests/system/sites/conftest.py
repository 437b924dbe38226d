"""Running sites, each started once for the tests of a file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.sites import Site, copy_sqlite
from tests.system.browser.conftest import chromium, tabs  # noqa: F401  # fixtures
from tests.system.sites.running import Running

Start = Callable[..., Running]


@pytest.fixture(scope="module")
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Return a function that starts a site with the settings module of this name, on PostgreSQL or SQLite."""
    sites: list[Site] = []

    def start(
        name: str,
        *arguments: str,
        server: str = "uvicorn",
        app: str = "tests.support.asgi:application",
        on: str = "postgresql",
        prefix: str = "",
        pages: str = "",
        migrate: bool = False,
        **env: str,
    ) -> Running:
        folder = tmp_path_factory.mktemp(name)
        if on == "sqlite":
            copy_sqlite(request.getfixturevalue("migrated_sqlite"), folder / "db.sqlite3")
            site = Site(f"sqlite:///{folder / 'db.sqlite3'}", folder)
        else:
            postgres = request.getfixturevalue("postgres")
            database = postgres.create_database(template=request.getfixturevalue("migrated_postgres"))
            site = Site(postgres.dsn(database), folder, postgres)
        site.env |= {"DJANGO_SETTINGS_MODULE": f"tests.system.sites.projects.{name}", **env}
        sites.append(site)
        if migrate:
            site.manage("migrate", "-v0")
        return Running(site, site.serve(server, app, *arguments), prefix, pages)

    yield start
    for site in sites:
        site.close()


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """Return the name of a public channel that only this test uses."""
    return f"public.{request.function.__name__}"[:80]


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    """Close the connections that a test's clients left open."""
    yield
    clients.leave_all()


@pytest.fixture(scope="session")
def static_root(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the hashed static files of a site."""
    folder = tmp_path_factory.mktemp("static")
    site = Site(f"sqlite:///{migrated_sqlite}", folder)
    site.env |= {"DJANGO_SETTINGS_MODULE": "tests.system.sites.projects.policy", "TEST_STATIC_ROOT": str(folder)}
    site.manage("collectstatic", "--noinput", "-v0", "--ignore", "redoc")
    return folder
