"""Replay: one client that is far behind, compared with a bare cursor, and the cost of many simultaneous reconnects."""

from __future__ import annotations

import resource
import statistics
import urllib.request

from benchmarks import rig

BACKLOG = 100_000
ROUNDS = 9
STORM, BEHIND = 5000, 100


def run(kind: str = "uvicorn") -> None:
    _raise_file_limit()
    alone, storms = [], []
    for database in ("sqlite", "postgresql"):
        with rig.database(database) as url, rig.server(kind, "benchmarks.site:application", url) as server:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/fill/?n={BACKLOG}", timeout=300).read()
            alone.append([database, *_alone(server)])
            for state in ("warm", "restarted"):
                if state == "restarted":
                    server.restart()
                storms.append([database, state, *_storm(server)])
    rig.table(
        f"Replay of {BACKLOG:,} messages to one client, {ROUNDS} rounds",
        [
            "database",
            "bare cursor, s",
            "replay, s",
            "ratio",
            "lowest",
            "highest",
            "ratio of the fastest",
            "queries",
            "messages/s",
        ],
        alone,
    )
    rig.table(
        f"{STORM:,} clients reconnect together, {BEHIND} messages behind",
        ["database", "hub", "queries for all", "seconds until all have all", "CPU ms each"],
        storms,
    )


def _alone(server: rig.Server) -> list[object]:
    """Read the whole log in turns with a bare cursor in the server's process, and as a client.

    A ratio compares two neighbouring measurements. The fastest ones suffer least from other work of the machine.
    """
    bare, replays, queries = [], [], 0
    for _ in range(1 + ROUNDS):  # the first round warms up
        rows = server.get("/rows/")
        assert rows["rows"] == BACKLOG
        bare.append(rows["seconds"])
        queries = server.get("/queries/")["count"]
        with rig.crowd(server.port, "/events/news/?last_event_id=0", 1, BACKLOG) as clients:
            replays.append(clients.result()["connect_seconds"])
        queries = server.get("/queries/")["count"] - queries
    del bare[0], replays[0]
    ratios = [replay / rows for replay, rows in zip(replays, bare, strict=True)]
    rate = f"{BACKLOG / statistics.median(replays):,.0f}"
    return [
        *map(statistics.median, (bare, replays, ratios)),
        min(ratios),
        max(ratios),
        min(replays) / min(bare),
        queries,
        rate,
    ]


def _storm(server: rig.Server) -> list[object]:
    queries, cpu = server.get("/queries/")["count"], server.cpu_seconds()
    path = f"/events/news/?last_event_id={BACKLOG - BEHIND}"
    with rig.crowd(server.port, path, STORM, BEHIND) as clients:
        found = clients.result()
    spent = server.cpu_seconds() - cpu
    made = server.get("/queries/")["count"] - queries
    return [made, found["connect_seconds"], spent / STORM * 1000]


def _raise_file_limit() -> None:
    """Allow as many open files as the system does, also in the server and in the clients."""
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))
