"""Fan-out: the server's CPU per delivery of a small event to 500 clients, compared with the bare app."""

from __future__ import annotations

import statistics
import time
import urllib.request

from benchmarks import rig

CONNECTIONS = 500
STEADY_EVENTS, STEADY_RATE = 100, 10
BURST_EVENTS = 2000


def _microseconds(server: rig.Server, path: str, events: int, rate: float) -> tuple[float, float]:
    """Return the CPU microseconds per delivery, and the deliveries per second."""
    with rig.crowd(server.port, path, CONNECTIONS, events) as clients:
        time.sleep(1)
        before = server.cpu_seconds()
        url = f"http://127.0.0.1:{server.port}/burst/?n={events}&rate={rate}"
        urllib.request.urlopen(url, timeout=300).read()
        found = clients.result()
        spent = server.cpu_seconds() - before
    deliveries = CONNECTIONS * events
    return spent / deliveries * 1e6, deliveries / found["span_seconds"]


def run(kinds: list[str], rounds: int = 5) -> None:
    rows = []
    with rig.database("sqlite") as url:
        for kind in kinds:
            for name, events, rate in (
                ("10 events/s", STEADY_EVENTS, STEADY_RATE),
                ("burst of 2,000", BURST_EVENTS, 0),
            ):
                ours, bare = [], []
                for _ in range(rounds):  # alternate, so that other load on the machine affects both
                    with rig.server(kind, "benchmarks.bare:application", url) as server:
                        bare.append(_microseconds(server, "/", events, rate))
                    with rig.server(kind, "benchmarks.site:application", url) as server:
                        ours.append(_microseconds(server, "/events/news/", events, rate))
                costs = [statistics.median(cost for cost, _ in each) for each in (bare, ours)]
                speed = statistics.median(speed for _, speed in ours)
                rows.append([kind, name, *costs, costs[1] / costs[0], f"{speed:,.0f}"])
    rig.table(
        f"Fan-out to {CONNECTIONS} connections: CPU per delivery (median of {rounds})",
        ["server", "load", "bare app, µs", "Streams, µs", "ratio", "deliveries/s"],
        rows,
    )
