"""Run the comparisons and print their tables: python -m benchmarks [comparison …] [--server uvicorn …]

Without a name, `peers` runs: Streams, a bare ASGI app and the peers that are installed. `scale` measures the curves.
Both write benchmarks/results, and `docs` writes these results into the documentation.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

from benchmarks import (
    api,
    capacity,
    carriers,
    crowding,
    fanout,
    idle,
    latency,
    opening,
    plans,
    proxy,
    publishing,
    relay,
    replay,
    revocation,
)
from benchmarks.peers import comparison as peers
from benchmarks.peers.measure import Load
from benchmarks.report import pages
from benchmarks.report.results import FOLDER
from benchmarks.scale import comparison as scale
from benchmarks.scale import curves
from tests.support.sites import ROOT, SERVERS


def main() -> None:
    comparisons = {
        "api": lambda servers: api.run(),
        "capacity": lambda servers: capacity.run(servers),
        "carriers": lambda servers: carriers.run(),
        "crowding": lambda servers: crowding.run(servers[0]),
        "docs": lambda servers: _refresh_docs(options.results),
        "fanout": lambda servers: fanout.run(servers),
        "idle": lambda servers: idle.run(servers),
        "latency": lambda servers: latency.run(),
        "peers": lambda servers: peers.run(
            Load(options.connections, options.events, burst=options.burst),
            options.rounds or peers.ROUNDS,
            options.only,
            options.results,
        ),
        "opening": lambda servers: opening.run(servers, options.rounds or 5, options.size or opening.STREAMS),
        "plans": lambda servers: plans.run(),
        "proxy": lambda servers: proxy.run(),
        "publishing": lambda servers: publishing.run(
            options.tree, options.case, options.database, options.rounds or publishing.ROUNDS
        ),
        "relay": lambda servers: relay.run(servers),
        "replay": lambda servers: replay.run(servers[0]),
        "revocation": lambda servers: revocation.run(),
        "scale": lambda servers: scale.run(
            options.curve, options.rounds or scale.ROUNDS, options.most, options.seconds, options.results
        ),
    }
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="comparison", help=", ".join(comparisons))
    parser.add_argument("--server", action="append", choices=SERVERS, help="repeatable (default: uvicorn, daphne)")
    parser.add_argument("--rounds", type=int, help="of peers, publishing and scale (each has a default)")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder for the samples of peers and scale")
    only = parser.add_argument_group("peers")
    only.add_argument("--connections", type=int, default=Load.connections)
    only.add_argument("--events", type=int, default=Load.events, help="of the steady load")
    only.add_argument("--burst", type=int, default=Load.burst, help="events of the burst")
    only.add_argument("--only", action="append", default=[], help="part of a server's name; repeatable (default: all)")
    only = parser.add_argument_group("scale")
    only.add_argument("--curve", action="append", default=[], choices=curves.TITLES, help="repeatable (default: all)")
    only.add_argument("--most", type=int, help="leave out the points above this number")
    only.add_argument("--seconds", type=float, default=scale.SECONDS, help="of the load at each point")
    only = parser.add_argument_group("publishing")
    only.add_argument("--tree", action="append", default=[], help="another checkout to measure; repeatable")
    only.add_argument("--case", action="append", default=[], help="part of a case's name; repeatable (default: all)")
    only.add_argument("--database", action="append", default=[], choices=publishing.DATABASES)
    parser.add_argument("--size", type=int, help="opening: number of streams (default: 1,000)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(comparisons):
        parser.error(f"Unknown comparison: {', '.join(sorted(unknown))}. Valid names: {', '.join(comparisons)}")
    print(f"Python {platform.python_version()} on {platform.machine()}")
    for name, compare in comparisons.items():
        if name in (options.names or ["peers"]):
            compare(options.server or ["uvicorn", "daphne"])


def _refresh_docs(folder: Path) -> None:
    for path in pages.refresh(folder):
        print(f"Wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
