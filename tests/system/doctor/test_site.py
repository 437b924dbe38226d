"""The doctor looks at sites that are broken: without tables, without a database, without their notifier's server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.services import free_port, wait_until
from tests.support.services.postgres import PostgresServer
from tests.support.services.redis import RedisServer
from tests.support.sites import Site, copy_sqlite
from tests.system.doctor.support import examine

pytestmark = pytest.mark.once

POSTGRES = {"BACKEND": "streams.notifiers.postgres.PostgresNotifier"}
REDIS = {"BACKEND": "streams.notifiers.channel_layer.ChannelLayerNotifier"}


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_missing_migrations_are_found(request: pytest.FixtureRequest, tmp_path: Path, database: str) -> None:
    url = f"sqlite:///{tmp_path / 'db.sqlite3'}"
    if database == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.dsn(server.create_database())
    site = Site(url, tmp_path)
    report = examine(site)
    assert report.problems() == ["migrations"]
    assert "lacks migrations: streams.0001_initial" in report.of("migrations")["text"]
    assert "`manage.py migrate`" in report.of("migrations")["remedy"]
    assert report.code == 1

    site.manage("migrate", "-v0", "streams", "0003")
    assert "lacks migrations: streams.0004" in examine(site).of("migrations")["text"]
    site.close()


def test_database_that_refuses_is_found(tmp_path: Path) -> None:
    site = Site(f"postgresql://streams:secret@127.0.0.1:{free_port()}/site", tmp_path).settings(NOTIFIER=POSTGRES)
    done = site.manage("streams_doctor", "--json", check=False)
    assert "secret" not in done.stdout + done.stderr
    report = examine(site)
    assert report.problems() == ["database", "notifier"]
    assert "DATABASES['default']" in report.of("database")["remedy"]
    assert not report.has("migrations")
    site.close()


def test_database_that_hangs_is_found(postgres_site: Site) -> None:
    assert postgres_site.postgres is not None
    postgres_site.settings(NOTIFIER=POSTGRES)
    began = time.monotonic()
    with postgres_site.postgres.hanging():
        report = examine(postgres_site)
    assert report.problems() == ["database", "notifier"]
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("notifier", ["postgres", "redis"])
def test_notice_arrives_over_second_connection(request: pytest.FixtureRequest, notifier: str) -> None:
    site: Site = request.getfixturevalue("postgres_site" if notifier == "postgres" else "sqlite_site")
    if notifier == "redis":
        site.env["REDIS_URL"] = request.getfixturevalue("redis").url
    report = examine(site.settings(NOTIFIER=POSTGRES if notifier == "postgres" else REDIS))
    assert report.problems() == []
    assert "arrived over a second connection" in report.of("notifier")["text"]


def test_missing_redis_is_found(sqlite_site: Site) -> None:
    sqlite_site.env["REDIS_URL"] = f"redis://:secret@127.0.0.1:{free_port()}/0"
    report = examine(sqlite_site.settings(NOTIFIER=REDIS))
    assert report.problems() == ["notifier"]
    assert "`hosts` in CHANNEL_LAYERS" in report.of("notifier")["remedy"]
    assert "secret" not in report.of("notifier")["text"]


def test_processes_with_other_notifiers_are_found(redis: RedisServer, migrated_sqlite: Path, tmp_path: Path) -> None:
    copy_sqlite(migrated_sqlite, tmp_path / "db.sqlite3")
    site = Site(f"sqlite:///{tmp_path / 'db.sqlite3'}", tmp_path)
    site.env["REDIS_URL"] = redis.url
    site.settings(PRESENCE_SECONDS=60, HEARTBEAT_SECONDS=0.5)
    for server in (site.serve(), site.serve()):
        examine(site, f"{server.url}/events/news/", "--seconds", "1")
    wait_until(lambda: site.execute("SELECT count(*) FROM streams_node") == [(2,)], "the rows of both processes")
    report = examine(site)
    assert report.problems() == []
    assert "2 processes serve streams, but LocalNotifier" in next(
        finding["text"] for finding in report.findings if finding["level"] == "warning"
    )
    report = examine(site.settings(NOTIFIER=REDIS))
    assert report.problems() == ["processes"]
    assert "Use the same STREAMS['NOTIFIER']" in report.of("processes")["remedy"]
    site.close()
