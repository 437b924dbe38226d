"""The HTTP API: compare publishing through the fast path, through DRF's view, and through a minimal view.

The server is one uvicorn process with the demo site's middleware. Each connection is kept open and has one request at a
time. Messages have about 110 bytes, and requests have a signed token without a user.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time

from benchmarks import rig
from tests.support.sites import PYTHON, ROOT

SECONDS = 2.0
CONNECTIONS = (1, 16, 64)
PATHS = {
    "bare view with apublish": "/publish/",
    "fast": "/api/fast/channels/bench/messages/",
    "DRF": "/api/channels/bench/messages/",
}
MANY = "/api/messages/"
BATCH = 100

TOKEN = """
import django; django.setup()
from streams.tokens import make_token
print(make_token(publish=["*"], seconds=86400))
"""


async def _worker(port: int, request: bytes, end: float, seconds: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (start := time.perf_counter()) < end:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 201"):
            raise RuntimeError(head.decode("latin-1"))
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        seconds.append(time.perf_counter() - start)
    writer.close()


async def _load(port: int, path: str, body: bytes, token: str, connections: int) -> dict[str, float]:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    seconds: list[float] = []
    start = time.perf_counter()
    await asyncio.gather(*(_worker(port, head.encode() + body, start + SECONDS, seconds) for _ in range(connections)))
    ranked = sorted(seconds)
    return {
        "rate": len(seconds) / (time.perf_counter() - start),
        "p50": statistics.median(ranked) * 1000,
        "p99": ranked[int(len(ranked) * 0.99)] * 1000,
    }


def main() -> None:
    """Run the clients in their own process: python -m benchmarks.api PORT PATH TOKEN CONNECTIONS BODY."""
    port, path, token, connections, body = sys.argv[1:]
    print(json.dumps(asyncio.run(_load(int(port), path, body.encode(), token, int(connections)))))


def _measure(server: rig.Server, path: str, token: str, connections: int, body: str) -> dict[str, float]:
    before = server.cpu_seconds()
    argv = [PYTHON, "-m", "benchmarks.api", str(server.port), path, token, str(connections), body]
    done = subprocess.run(argv, cwd=ROOT, env=os.environ, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    found["cpu"] = (server.cpu_seconds() - before) / (found["rate"] * SECONDS) * 1e6
    return found


def _best(found: list[dict[str, float]]) -> dict[str, float]:
    """Return the best value of each figure. The best round is the one with the least other load on the machine."""
    return {name: (max if name == "rate" else min)(each[name] for each in found) for name in found[0]}


def run(rounds: int = 3) -> None:
    body = json.dumps({"data": {"n": 12345, "pad": "x" * 90}})
    many = json.dumps({"messages": [{"channel": "bench", "data": {"n": 12345, "pad": "x" * 90}}] * BATCH})
    for kind in ("sqlite", "postgresql"):
        with rig.database(kind) as url, rig.server("uvicorn", "benchmarks.site:application", url) as server:
            argv = [PYTHON, "-c", TOKEN]
            env = rig.environment(url)
            token = subprocess.run(argv, env=env, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
            rows: list[list[object]] = []
            for connections in CONNECTIONS:
                measured: dict[str, list[dict[str, float]]] = {name: [] for name in PATHS}
                for _ in range(rounds):
                    for name, path in PATHS.items():
                        measured[name].append(_measure(server, path, token, connections, body))
                found = {name: _best(each) for name, each in measured.items()}
                drf = found["DRF"]
                for name, each in found.items():
                    rate, cpu = (each[figure] / drf[figure] for figure in ("rate", "cpu"))
                    cells = [f"{each['rate']:,.0f}", rate, each["p50"], each["p99"], f"{each['cpu']:,.0f}", cpu]
                    rows.append([connections, name, *cells])
            each = _best([_measure(server, MANY, token, 4, many) for _ in range(rounds)])
            rate, cpu = each["rate"] * BATCH, each["cpu"] / BATCH
            rows.append([4, f"DRF, {BATCH} at once", f"{rate:,.0f}", "–", each["p50"], each["p99"], f"{cpu:,.0f}", "–"])
        rig.table(
            f"Publishing over HTTP on uvicorn, {kind} (best of {rounds})",
            ["connections", "path", "messages a second", "to DRF's", "p50 ms", "p99 ms", "µs CPU each", "to DRF's"],
            rows,
        )


if __name__ == "__main__":
    main()
