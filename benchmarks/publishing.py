"""Publishing: messages per second and latency, compared with a bare INSERT of the same row by as many publishers.

The publishers are processes that start together, threads of one process, or tasks of one event loop. They publish
outside a transaction, or inside `transaction.atomic()`. Each process notifies only itself, because `latency` and
`carriers` measure the notifiers. To measure with the demo site's notifier, set BENCH_NOTIFIER to an empty value.

`--tree PATH` measures another checkout too, alternating with this one, to compare two versions.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import rig
from tests.support.services.postgres import PostgresServer
from tests.support.sites import PYTHON, ROOT

SECONDS = 1.2
ROUNDS = 2
DATABASES = ("sqlite", "postgresql")

# (name, step, kind of publishers, number of publishers, number of publishers for the bare INSERT)
CASES = [
    ("1 process", "publish", "processes", 1, 1),
    ("1 process, atomic", "atomic", "processes", 1, 1),
    ("4 processes", "publish", "processes", 4, 4),
    ("4 processes, atomic", "atomic", "processes", 4, 4),
    ("16 processes", "publish", "processes", 16, 16),
    ("16 processes, atomic", "atomic", "processes", 16, 16),
    ("16 threads", "publish", "threads", 16, 16),
    ("100 tasks", "publish", "tasks", 100, 16),
]


class Publishers:
    """A process of benchmarks/publishers.py with its own checkout of Streams and its own database."""

    def __init__(self, tree: Path, url: str) -> None:
        self.url = url
        environment = {**rig.environment(url), "PYTHONPATH": str(tree)}
        environment["BENCH_NOTIFIER"] = os.environ.get("BENCH_NOTIFIER", "local")
        # -P keeps the program's folder off sys.path, because `site.py` there would hide the standard library's module.
        argv = [PYTHON, "-P", str(ROOT / "benchmarks" / "publishers.py")]
        self._process = subprocess.Popen(
            argv, env=environment, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, step: str, workers: str, count: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        before = self._wal(checkpoint=True)
        self._process.stdin.write(json.dumps([step, workers, count, SECONDS]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The publishers ended; their error is above.")
        found: dict[str, Any] = json.loads(line)
        found["wal"] = (self._wal() - before) / found["stored"]
        return found

    def _wal(self, *, checkpoint: bool = False) -> int:
        """Return PostgreSQL's position in its write-ahead log."""
        if not self.url.startswith("postgresql"):
            return 0
        with psycopg.connect(self.url, autocommit=True) as connection:
            if checkpoint:
                connection.execute("CHECKPOINT")
            row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
            assert row is not None
            return int(row[0])

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


@contextlib.contextmanager
def publishers(tree: Path, kind: str, postgres: PostgresServer | None) -> Iterator[Publishers]:
    with rig.database(kind, tree, postgres) as url:
        running = Publishers(tree, url)
        try:
            yield running
        finally:
            running.stop()


def measure(kind: str, trees: Sequence[Path], cases: Sequence[tuple[Any, ...]], rounds: int) -> list[list[object]]:
    """Return the table's rows, with the best of the rounds. Each round alternates between trees and bare INSERTs."""
    best: dict[tuple[Path, str], dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(rig.postgres_server()) if kind == "postgresql" else None
        if postgres is not None:
            # With full_page_writes, the WAL's size would depend on the time since the last checkpoint.
            postgres.execute("ALTER SYSTEM SET full_page_writes = off")
            postgres.execute("SELECT pg_reload_conf()")
        # Each tree has two databases, because a publish would sequence the rows of the bare INSERTs.
        ours = {tree: stack.enter_context(publishers(tree, kind, postgres)) for tree in trees}
        bare = {tree: stack.enter_context(publishers(tree, kind, postgres)) for tree in trees}
        for _ in range(rounds):
            for name, step, workers, count, bare_count in cases:
                bare_workers = "threads" if workers == "tasks" else workers
                bare_name = f"bare {bare_count} {bare_workers}"
                for tree in trees:
                    runs = [(name, ours[tree].run(step, workers, count))]
                    runs.append((bare_name, bare[tree].run("insert", bare_workers, bare_count)))
                    for key, found in runs:
                        if found["rate"] > best.get((tree, key), {"rate": 0})["rate"]:
                            best[tree, key] = found
    rows: list[list[object]] = []
    for name, _, workers, _, bare_count in cases:
        bare_name = f"bare {bare_count} {'threads' if workers == 'tasks' else workers}"
        for tree in trees:
            found, least = best[tree, name], best[tree, bare_name]
            row: list[object] = [kind, name, f"{least['rate']:,.0f}", f"{found['rate']:,.0f}"]
            row += [found["rate"] / least["rate"], f"{least['p50']:.1f}", f"{found['p50']:.1f}", f"{found['p99']:.1f}"]
            row += [f"{found['wal']:,.0f}" if found["wal"] else "", tree.name]
            rows.append(row)
    return rows


def run(
    trees: Sequence[str] = (), wanted: Sequence[str] = (), databases: Sequence[str] = (), rounds: int = ROUNDS
) -> None:
    """Run the cases whose name contains one of `wanted`, or all cases if it is empty."""
    cases = [case for case in CASES if not wanted or any(part in case[0] for part in wanted)]
    rows: list[list[object]] = []
    for kind in databases or DATABASES:
        rows += measure(kind, [ROOT, *(Path(tree).resolve() for tree in trees)], cases, rounds)
    rig.table(
        f"Publishing, messages a second (best of {rounds} rounds of {SECONDS:g} s; fsync on, full_page_writes off; "
        "100 tasks beside 16 threads of INSERTs; WAL in bytes a message)",
        ["database", "publishers", "INSERT", "publish", "ratio", "INSERT p50 ms", "p50 ms", "p99 ms", "WAL", "tree"],
        rows,
    )
