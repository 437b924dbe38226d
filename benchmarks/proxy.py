"""Proxy: the cost that nginx adds to a stream and to a delivery, with the configuration of docs/deploying.

One uvicorn process runs behind nginx, with as many streams as the configuration allows for one address.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from benchmarks import rig
from tests.support.services.nginx import NginxServer

STREAMS = 2000
EVENTS = 50
RATE = 5


def _costs(url: str) -> Iterator[float]:
    """Yield nginx's kB per stream, and the CPU microseconds of nginx and of the server per delivered event."""
    with rig.server("uvicorn", "benchmarks.site:application", url) as server:
        nginx = NginxServer([server.port] * 4).start()
        try:
            family = rig.family(nginx.pid)
            memory = rig.resident_bytes(family)
            with rig.crowd(nginx.port, "/events/news/", STREAMS, EVENTS) as clients:
                time.sleep(3)
                yield (rig.resident_bytes(family) - memory) / STREAMS / 1024
                before = rig.cpu_seconds(family), server.cpu_seconds()
                server.get(f"/burst/?n={EVENTS}&rate={RATE}")
                clients.result()
                after = rig.cpu_seconds(family), server.cpu_seconds()
                for then, now in zip(before, after, strict=True):
                    yield (now - then) / EVENTS / STREAMS * 1e6
        finally:
            nginx.remove()


def run(rounds: int = 3) -> None:
    with rig.database("postgresql") as url:
        found = zip(*(tuple(_costs(url)) for _ in range(rounds)), strict=True)
        row = [STREAMS, *(statistics.median(column) for column in found)]
    rig.table(
        f"nginx before uvicorn (median of {rounds})",
        ["streams", "nginx, kB each", "nginx, µs CPU a delivery", "uvicorn, µs CPU a delivery"],
        [row],
    )
