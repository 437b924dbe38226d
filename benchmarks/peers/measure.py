"""One measurement of one server: open streams, hold them, deliver events at a steady rate, and deliver a burst."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import rig
from benchmarks.peers.base import LIMIT_SECONDS, Peer
from tests.support.services import free_port

Sample = dict[str, float]


@dataclass(frozen=True)
class Load:
    connections: int = 500
    events: int = 100
    rate: float = 10  # events per second
    burst: int = 2000
    settle_seconds: float = 2.0  # before the memory is read


def measure(peer: Peer, load: Load, folder: Path) -> Sample:
    """Return the figures of one run, in the units of figures.py."""
    port, streams = free_port(), load.connections
    with rig.running(peer.command(port, folder), port, dict(peer.environment(folder))) as server:
        with rig.crowd(port, peer.path, 10, 1):
            pass  # the first streams load modules and create pools
        time.sleep(load.settle_seconds)
        memory, spent = server.resident_bytes(), server.cpu_seconds()
        phases = load.events, load.burst
        with rig.crowd(port, peer.path, streams, *phases, seconds=LIMIT_SECONDS, lossy=True) as clients:
            opening = server.cpu_seconds() - spent
            time.sleep(load.settle_seconds)
            held = server.resident_bytes() - memory

            spent = server.cpu_seconds()
            peer.publish(server, load.events, load.rate)
            steady = clients.result()
            steady_cpu = server.cpu_seconds() - spent

            spent, start = server.cpu_seconds(), time.monotonic()
            peer.publish(server, load.burst, 0)
            burst = clients.result()
            burst_cpu = server.cpu_seconds() - spent
    return {
        "steady_cpu": _per(steady_cpu * 1e6, _useful(steady)),
        "burst_cpu": _per(burst_cpu * 1e6, _useful(burst)),
        "burst_rate": _per(_useful(burst), burst["last_at"] - start),
        "memory": held / streams / 1024,
        "open_seconds": steady["open_seconds"],
        "open_cpu": opening / streams * 1e3,
        "p50": steady["p50_ms"],
        "p99": steady["p99_ms"],
        "received": 100 * (steady["events"] + burst["events"]) / (steady["expected"] + burst["expected"]),
    }


def _useful(found: dict[str, float]) -> float:
    """Return the number of deliveries without the repeated ones."""
    return min(found["events"], found["expected"])


def _per(amount: float, count: float) -> float:
    return amount / count if count else 0.0
