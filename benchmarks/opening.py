"""Opening: the CPU time and the memory of an open stream, by the way that its request takes through Django."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from benchmarks import rig

STREAMS = 1000
WARM_UP = 100

STOCK, OURS, DIRECT, BARE = (
    "benchmarks.site:application",
    "benchmarks.site:direct",
    "benchmarks.site:direct_way",
    "benchmarks.bare:application",
)

# Name, application, path, and how the client is known.
CASES = (
    ("bare ASGI app", BARE, "/", ""),
    ("plain async view, Django", STOCK, "/plain-for-all/", ""),
    ("public channel, Django's application", STOCK, "/events/news/", ""),
    ("public channel, streams.asgi", OURS, "/events/news/", ""),
    ("session, streams.asgi", OURS, "/events/user.{pk}/", "session"),
    ("public channel, direct", DIRECT, "/events/news/", ""),
    ("token, direct", DIRECT, "/events/private/", "token"),
    ("session, direct", DIRECT, "/events/user.{pk}/", "session"),
)


def _open(kind: str, url: str, app: str, path: str, known_by: str, size: int) -> tuple[float, float]:
    """Return the CPU milliseconds and the kB of each of `size` streams."""
    with rig.server(kind, app, url) as server:
        headers: Sequence[str] = ()
        if known_by == "session":
            pk, cookie = server.log_in()
            path, headers = path.format(pk=pk), [cookie]
        elif known_by == "token":
            headers = [f"Authorization: Bearer {server.get('/token/')['token']}"]
        with rig.crowd(server.port, path, WARM_UP, 1, headers=headers):
            pass
        time.sleep(1)
        cpu, memory = server.cpu_seconds(), server.resident_bytes()
        with rig.crowd(server.port, path, size, 1, headers=headers):
            time.sleep(1)
            spent, held = server.cpu_seconds() - cpu, server.resident_bytes() - memory
        return spent / size * 1e3, held / size / 1024


def run(kinds: list[str], rounds: int = 5, size: int = STREAMS) -> None:
    rows = []
    with rig.database("sqlite") as url:
        for kind in kinds:
            found: dict[str, list[tuple[float, float]]] = {name: [] for name, *_ in CASES}
            for _ in range(rounds):  # alternate, so that other load on the machine affects all cases
                for name, app, path, known_by in CASES:
                    found[name].append(_open(kind, url, app, path, known_by, size))
            bare_kb = statistics.median(kb for _, kb in found[CASES[0][0]])
            for name, values in found.items():
                costs = sorted(cost for cost, _ in values)
                kb = statistics.median(kb for _, kb in values)
                spread = f"{costs[0]:.2f} to {costs[-1]:.2f}"
                rows.append([kind, name, statistics.median(costs), spread, kb, kb - bare_kb])
    rig.table(
        f"Opening {size} streams (median of {rounds})",
        ["server", "stream", "CPU ms each", "from … to", "kB each", "more than the bare app"],
        rows,
    )
