"""Idle: the resources of an idle stream of a logged-in user, compared with a plain StreamingHttpResponse."""

from __future__ import annotations

import time

import psycopg

from benchmarks import rig

CONNECTIONS = 500


def _connections(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    return int(row[0]) if row else 0


def _hold(kind: str, path: str, url: str, size: int) -> tuple[float, int, int]:
    """Return kB per stream, threads of the process and database connections while `size` streams are open."""
    with rig.server(kind, "benchmarks.site:application", url) as server:
        pk, cookie = server.log_in()
        path = path.format(pk=pk)
        with rig.crowd(server.port, path, 10, 1, headers=[cookie]):
            pass
        time.sleep(2)
        before = server.process.memory_info().rss
        with rig.crowd(server.port, path, size, 1, headers=[cookie]):
            time.sleep(5)
            memory = (server.process.memory_info().rss - before) / size / 1024
            return memory, server.process.num_threads(), _connections(url)


def run(kinds: list[str]) -> None:
    rows = []
    with rig.database("postgresql") as url:
        for kind in kinds:
            # A plain stream keeps a database connection, and PostgreSQL's limit allows 250 of them.
            for name, path, size in (("plain", "/plain/", 250), ("Streams", "/events/user.{pk}/", CONNECTIONS)):
                rows.append([kind, name, size, *_hold(kind, path, url, size)])
    rig.table(
        "Idle streams of a logged-in user",
        ["server", "stream", "open", "kB each", "threads", "PostgreSQL connections"],
        rows,
    )
