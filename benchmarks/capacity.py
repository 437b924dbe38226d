"""Capacity: the cost of thousands of streams in one process, for opening, holding, and sending one event to all.

Streams runs as on a site, with Django's stock handler, the log, and a heartbeat every 15 seconds. The bare app on the
same server sends no heartbeats, so its idle streams cost nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import time

from benchmarks import rig
from tests.support.sites import PYTHON, ROOT

CONNECTIONS = 5000
OTHERS = 2000
SILENCE_SECONDS = 30.0  # two heartbeat intervals
EVENTS = 10


def _costs(kind: str, app: str, path: str, url: str) -> list[float]:
    with rig.server(kind, app, url) as server:
        with rig.crowd(server.port, path, 10, 1):
            pass
        time.sleep(2)
        memory, spent = server.resident_bytes(), server.cpu_seconds()
        with rig.crowd(server.port, path, CONNECTIONS, EVENTS) as clients:
            opening = server.cpu_seconds() - spent
            time.sleep(5)
            held = server.resident_bytes() - memory
            spent, began = server.cpu_seconds(), time.monotonic()
            time.sleep(SILENCE_SECONDS)
            silent = (server.cpu_seconds() - spent) / (time.monotonic() - began)
            spent = server.cpu_seconds()
            server.get(f"/burst/?n={EVENTS}&rate=1")
            clients.result()
            event = (server.cpu_seconds() - spent) / EVENTS
    return [
        opening / CONNECTIONS * 1e6,
        held / CONNECTIONS / 1024,
        silent * 100,
        event * 1e3,
    ]


PUBLISH = """
import sys
import django; django.setup()
from benchmarks.bare import payload
from streams import publish
for n in range(int(sys.argv[1])):
    publish("news", payload(n))
"""


def _elsewhere(kind: str, url: str) -> float:
    """Return the CPU microseconds for a message without subscribers here. Every process is notified of it."""
    with rig.server(kind, "benchmarks.site:application", url) as server, rig.crowd(server.port, "/events/quiet/", 1, 1):
        time.sleep(2)
        spent = server.cpu_seconds()
        subprocess.run([PYTHON, "-c", PUBLISH, str(OTHERS)], cwd=ROOT, env=rig.environment(url), check=True)
        time.sleep(2)
        return (server.cpu_seconds() - spent) / OTHERS * 1e6


def run(kinds: list[str], rounds: int = 3) -> None:
    apps = {"bare": ("benchmarks.bare:application", "/"), "Streams": ("benchmarks.site:application", "/events/news/")}
    rows: list[list[object]] = []
    shares: list[list[object]] = []
    with rig.database("postgresql") as url:
        for kind in kinds:
            found: dict[str, list[list[float]]] = {name: [] for name in apps}
            for _ in range(rounds):  # alternate, so that other load on the machine affects both
                for name, (app, path) in apps.items():
                    found[name].append(_costs(kind, app, path, url))
            for name, costs in found.items():
                rows.append([kind, name, *(statistics.median(column) for column in zip(*costs, strict=True))])
            shares.append([kind, statistics.median(_elsewhere(kind, url) for _ in range(rounds))])
    rig.table(
        f"Capacity: {CONNECTIONS:,} streams on one process (median of {rounds})",
        ["server", "app", "opening one, µs CPU", "kB each", "silence, % of a core", "one event to all, ms CPU"],
        rows,
    )
    rig.table(
        f"A message that another process publishes, on a channel without subscribers (median of {rounds})",
        ["server", "µs CPU"],
        shares,
    )
