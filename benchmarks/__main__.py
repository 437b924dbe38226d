"""Run the comparisons and print their tables: python -m benchmarks [comparison …] [--server uvicorn …]"""

from __future__ import annotations

import argparse
import platform

from benchmarks import (
    api,
    capacity,
    carriers,
    crowding,
    fanout,
    idle,
    latency,
    plans,
    proxy,
    publishing,
    relay,
    replay,
    revocation,
)
from tests.support.sites import SERVERS


def main() -> None:
    comparisons = {
        "api": lambda servers: api.run(),
        "capacity": lambda servers: capacity.run(servers),
        "carriers": lambda servers: carriers.run(),
        "crowding": lambda servers: crowding.run(servers[0]),
        "fanout": lambda servers: fanout.run(servers),
        "idle": lambda servers: idle.run(servers),
        "latency": lambda servers: latency.run(),
        "plans": lambda servers: plans.run(),
        "proxy": lambda servers: proxy.run(),
        "publishing": lambda servers: publishing.run(
            options.tree, options.case, options.database, options.rounds or publishing.ROUNDS
        ),
        "relay": lambda servers: relay.run(servers),
        "replay": lambda servers: replay.run(servers[0]),
        "revocation": lambda servers: revocation.run(),
    }
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="comparison", help=", ".join(comparisons))
    parser.add_argument("--server", action="append", choices=SERVERS, help="repeatable (default: uvicorn, daphne)")
    only = parser.add_argument_group("publishing")
    only.add_argument("--tree", action="append", default=[], help="another checkout to measure; repeatable")
    only.add_argument("--case", action="append", default=[], help="part of a case's name; repeatable (default: all)")
    only.add_argument("--database", action="append", default=[], choices=publishing.DATABASES)
    only.add_argument("--rounds", type=int, help="number of rounds; the best one counts")
    options = parser.parse_args()
    if unknown := set(options.names) - set(comparisons):
        parser.error(f"Unknown comparison: {', '.join(sorted(unknown))}. Valid names: {', '.join(comparisons)}")
    print(f"Python {platform.python_version()} on {platform.machine()}")
    for name, compare in comparisons.items():
        if not options.names or name in options.names:
            compare(options.server or ["uvicorn", "daphne"])


if __name__ == "__main__":
    main()
