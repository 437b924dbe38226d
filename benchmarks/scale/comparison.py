"""Scale: CPU per delivery, memory per stream and latency, for more and more connections, channels and processes.

The rate falls as an event reaches more clients, so that there are about DELIVERIES deliveries a second at each point,
and the server is never busy. The costs of an idle server are part of the figures, and are shared by the deliveries.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import files, rig
from benchmarks.report.results import FOLDER, Results
from benchmarks.scale import curves
from tests.support.services import free_port, postgres, redis

ROUNDS = 3
CONNECTIONS = (1, 10, 100, 1000, 5000, 10_000)
CHANNELS = (1, 10, 100, 1000, 2000)
PROCESSES = (1, 2, 4, 8)
DELIVERIES, EVENTS = 4000, 200  # per second, at most
SECONDS = 10


@dataclass(frozen=True)
class Point:
    """One measurement: a server and its load."""

    connections: int
    channels: int = 1
    processes: int = 1
    at: int = 0  # on the curve's axis
    seconds: float = SECONDS  # that the events take

    @property
    def rate(self) -> float:
        most = EVENTS if self.channels > 1 else 10
        return min(most, max(5 / self.seconds, DELIVERIES * self.channels / self.connections))

    @property
    def events(self) -> int:
        """Return as many events as fit into the time, and the same number for each channel."""
        return max(1, round(self.rate * self.seconds / self.channels)) * self.channels


def points(curve: str, most: int | None = None, seconds: float = SECONDS) -> list[Point]:
    """Return the points of a curve. `most` limits the connections, channels or processes, for a quick look."""
    if curve == "connections":
        found = [Point(connections=n, at=n) for n in CONNECTIONS]
    elif curve == "channels":
        found = [Point(connections=min(2000, most or 2000), channels=n, at=n) for n in CHANNELS]
    else:
        found = [Point(connections=min(1000, most or 1000), processes=n, at=n) for n in PROCESSES]
    return [replace(point, seconds=seconds) for point in found if most is None or point.at <= most]


def _missing(notifier: str) -> str:
    """Return how to install what the notifier needs, or an empty string. Both notifiers use PostgreSQL for the log."""
    if notifier != "local" and postgres.programs() is None:
        return "`apt-get install postgresql` brings PostgreSQL"
    if notifier == "Redis" and redis.program() is None:
        return "`apt-get install redis-server` brings Redis"
    return ""


@contextlib.contextmanager
def _site(notifier: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield a database's URL and the environment variables of a notifier."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(rig.database("sqlite" if notifier == "local" else "postgresql"))
        env = {}
        if notifier == "Redis":
            server = redis.RedisServer()
            stack.callback(server.remove)
            server.start()
            env["REDIS_URL"] = server.url
        yield url, env


def measure(app: str, path: str, point: Point, url: str, env: dict[str, str]) -> dict[str, float]:
    port = free_port()
    argv = rig.asgi_command("uvicorn", app, port)
    if point.processes > 1:
        argv += ["--workers", str(point.processes)]
    if point.channels > 1:
        path = path.replace("/news/", "/news.{}/") if "news" in path else "/{}"
    with rig.running(argv, port, {**rig.environment(url), **env}) as server:
        with rig.crowd(port, path, 10 * point.processes, 1, channels=point.channels):
            pass
        time.sleep(2)
        memory, spent = server.resident_bytes(), server.cpu_seconds()
        each = point.events // point.channels
        with rig.crowd(port, path, point.connections, each, channels=point.channels) as clients:
            opening = server.cpu_seconds() - spent
            time.sleep(3)
            held = server.resident_bytes() - memory
            spent = server.cpu_seconds()
            server.get(f"/burst/?n={point.events}&rate={point.rate}&channels={point.channels}")
            found = clients.result()
            spent = server.cpu_seconds() - spent
    return {
        "at": point.at,
        "connections": point.connections,
        "rate": round(point.rate, 1),
        "steady_cpu": spent / found["events"] * 1e6,
        "memory": held / point.connections / 1024,
        "open_cpu": opening / point.connections * 1e3,
        "p50": found["p50_ms"],
        "p99": found["p99_ms"],
    }


BARE = ("bare ASGI app", "benchmarks.bare:application", "/", "local")
STREAMS = ("Streams", "benchmarks.site:application", "/events/news/")
SERVERS = {
    "connections": [(*STREAMS, "local"), BARE],
    "channels": [(*STREAMS, "local"), BARE],
    # The bare app has no way to notify other processes.
    "processes": [
        ("Streams, PostgreSQL", *STREAMS[1:], "PostgreSQL"),
        ("Streams, Redis", *STREAMS[1:], "Redis"),
    ],
}


def run(
    only: Sequence[str] = (),
    rounds: int = ROUNDS,
    most: int | None = None,
    seconds: float = SECONDS,
    folder: Path = FOLDER,
) -> Results:
    results = Results("scale", {"rounds": rounds, "deliveries_per_second": DELIVERIES, "seconds": seconds})
    for number in range(rounds):
        for curve in curves.TITLES:
            if not only or curve in only:
                _round(results, curve, points(curve, most, seconds), f"Round {number + 1} of {rounds}")
                results.save(folder)  # so that an interrupted run leaves something
    print(f"Wrote {results.save(folder)}", file=sys.stderr)
    print(curves.report(results))
    return results


def _round(results: Results, curve: str, found: list[Point], prefix: str) -> None:
    for name, app, path, notifier in SERVERS[curve]:
        if remedy := _missing(notifier):
            results.skipped[name] = remedy
            print(f"SKIPPED: {name}; {remedy}.", file=sys.stderr)
            continue
        sample = []
        with _site(notifier) as (url, env):
            for point in found:
                if reason := files.too_few_for(point.connections):
                    print(f"SKIPPED: {curve}, {reason}", file=sys.stderr)
                    continue
                print(f"{prefix}: {curve}, {name}, {point.at:,} …", file=sys.stderr, flush=True)
                try:
                    sample.append(measure(app, path, point, url, env))
                except rig.FAILURES as error:  # the other points are worth keeping
                    results.skipped[f"{curve}: {name}, {point.at:,}"] = f"it failed: {error}"
                    print(f"FAILED: {error}", file=sys.stderr, flush=True)
        results.samples.setdefault(f"{curve}: {name}", []).append(sample)
