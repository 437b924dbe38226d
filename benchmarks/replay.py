"""Replay: messages per second for one client that is far behind, and the cost of a thousand simultaneous reconnects."""

from __future__ import annotations

import urllib.request

from benchmarks import rig

BACKLOG = 50_000
STORM, BEHIND = 1000, 100


def run(kind: str = "uvicorn") -> None:
    alone, storms = [], []
    for database in ("sqlite", "postgresql"):
        with rig.database(database) as url, rig.server(kind, "benchmarks.site:application", url) as server:
            burst = f"http://127.0.0.1:{server.port}/burst/?n={{}}&rate=0"
            urllib.request.urlopen(burst.format(BACKLOG), timeout=300).read()
            with rig.crowd(server.port, "/events/news/?last_event_id=0", 1, BACKLOG) as clients:
                found = clients.result()
            alone.append([database, f"{BACKLOG / found['span_seconds']:,.0f}"])
            for state in ("warm", "restarted"):
                if state == "restarted":
                    server.restart()
                queries, cpu = server.get("/queries/")["count"], server.cpu_seconds()
                path = f"/events/news/?last_event_id={BACKLOG - BEHIND}"
                with rig.crowd(server.port, path, STORM, BEHIND) as clients:
                    found = clients.result()
                spent = server.cpu_seconds() - cpu
                made = server.get("/queries/")["count"] - queries
                storms.append([database, state, made, found["connect_seconds"], spent / STORM * 1000])
    rig.table(f"Replay of {BACKLOG:,} messages to one client", ["database", "messages/s"], alone)
    rig.table(
        f"{STORM:,} clients reconnect together, {BEHIND} messages behind",
        ["database", "hub", "queries for all", "seconds until all have all", "CPU ms each"],
        storms,
    )
