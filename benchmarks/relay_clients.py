"""HTTP clients for an upstream, compared by the resources that a thousand cancels leave open and by CPU per read.

    python -m benchmarks.relay_clients

Each client is measured in its own process. Its pool has as many connections as there are concurrent requests. The
connections that a pool has lost show afterwards in the number of concurrent requests that are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import json
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import psutil

from benchmarks import rig
from benchmarks.relay import upstream
from tests.relay.steps import END, HEAD, Step, piece, wait
from tests.support.sites import PYTHON, ROOT

CLIENTS = ("aiohttp", "httpx", "httpx2")

CANCELS, AT_A_TIME = 1000, 20
STREAMS, EVENTS, EVENT_SECONDS = 200, 100, 0.05
ANSWER_SECONDS = 5.0

Chunks = AsyncIterator[bytes]
Open = Callable[[dict[str, Any]], AbstractAsyncContextManager[Chunks]]


@contextlib.asynccontextmanager
async def client(name: str, port: int, connections: int) -> AsyncIterator[Open]:
    """Yield a function that opens a stream with this client."""
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    if name == "aiohttp":
        import aiohttp

        connector = aiohttp.TCPConnector(limit=connections)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

            @contextlib.asynccontextmanager
            async def by_aiohttp(payload: dict[str, Any]) -> AsyncIterator[Chunks]:
                async with session.post(url, json=payload) as answer:
                    yield answer.content.iter_any()

            yield by_aiohttp
    else:
        library = importlib.import_module(name)
        limits = library.Limits(max_connections=connections)
        async with library.AsyncClient(limits=limits, timeout=None, trust_env=False) as made:

            @contextlib.asynccontextmanager
            async def by_httpx(payload: dict[str, Any]) -> AsyncIterator[Chunks]:
                async with made.stream("POST", url, json=payload) as answer:
                    yield answer.aiter_raw()

            yield by_httpx


def payload(steps: list[Step], user: str = "") -> dict[str, Any]:
    return {"user": user, "messages": [{"role": "user", "content": json.dumps(steps)}]}


async def read(open_: Open, steps: list[Step], user: str = "") -> int:
    """Read one answer to its end, and return the number of its chunks."""
    count = 0
    async with open_(payload(steps, user)) as chunks:
        async for _ in chunks:
            count += 1
    return count


SLOW: list[list[Step]] = [
    [wait(30)],
    [HEAD, piece("x"), wait(30)],
    [HEAD, ["repeat", 10_000, [piece("x"), wait(0.002)]]],
]


async def cancel(name: str, port: int) -> dict[str, Any]:
    async def start_and_cancel(open_: Open, number: int) -> float:
        """Start a request, cancel it, and return the time of the cancel."""
        task = asyncio.create_task(read(open_, SLOW[number % len(SLOW)], f"{name}-{number}"))
        await asyncio.sleep(random.choice([0, 0.001, random.uniform(0, 0.05)]))
        left_at = time.monotonic()
        task.cancel()
        await asyncio.wait([task])
        return left_at

    async with client(name, port, AT_A_TIME) as open_:
        await read(open_, [HEAD, piece("x"), *END])
        before = psutil.Process().num_fds()
        left_at: list[float] = []
        for start in range(0, CANCELS, AT_A_TIME):
            going = (start_and_cancel(open_, number) for number in range(start, start + AT_A_TIME))
            try:
                async with asyncio.timeout(30):
                    left_at += await asyncio.gather(*going)
            except TimeoutError:
                break
        await asyncio.sleep(1)
        fds = psutil.Process().num_fds() - before
        late = [
            seen["lost_at"] - left
            for number, left in enumerate(left_at)
            for seen in await asyncio.to_thread(_seen, port, f"{name}-{number}")
            if seen["lost_at"] is not None
        ]
        asking = [asyncio.create_task(read(open_, [HEAD, piece("x"), wait(0.5), *END])) for _ in range(AT_A_TIME)]
        done, waiting = await asyncio.wait(asking, timeout=ANSWER_SECONDS)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return {
        "cancels": len(left_at),
        "let_go_ms": max(late) * 1e3,
        "fds": fds,
        "answered": sum(task.exception() is None for task in done),
    }


def _seen(port: int, user: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/seen/{user}", timeout=30) as answer:
        return list(json.load(answer))


async def consume(name: str, port: int) -> dict[str, Any]:
    steps: list[Step] = [HEAD, ["repeat", EVENTS, [piece("token"), wait(EVENT_SECONDS)]], *END]
    me = psutil.Process()
    async with client(name, port, STREAMS) as open_:
        await read(open_, [HEAD, piece("x"), *END])
        before = sum(me.cpu_times()[:2])
        reads = sum(await asyncio.gather(*(read(open_, steps) for _ in range(STREAMS))))
        spent = sum(me.cpu_times()[:2]) - before
    return {"read_us": spent / reads * 1e6}


def run(rounds: int = 3) -> None:
    rows = []
    for name in CLIENTS:
        found: dict[str, Any] = {}
        costs = []
        for number in range(rounds):
            with upstream() as port:
                for what in ("cancel", "consume") if number == 0 else ("consume",):
                    argv = [PYTHON, "-m", "benchmarks.relay_clients", what, name, str(port)]
                    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
                    found |= json.loads(done.stdout.splitlines()[-1])
                costs.append(found["read_us"])
        version = importlib.metadata.version(name)
        rows.append(
            [
                f"{name} {version}",
                found["cancels"],
                found["let_go_ms"],
                found["fds"],
                f"{found['answered']} of {AT_A_TIME}",
                statistics.median(costs),
            ]
        )
    rig.table(
        f"HTTP clients: {CANCELS} cancels, {AT_A_TIME} at a time; then {STREAMS} streams",
        [
            "client",
            "cancelled",
            "let go after, at most, ms",
            "more open files",
            "answered after it",
            "CPU per read, µs",
        ],
        rows,
    )


if __name__ == "__main__":
    if len(sys.argv) == 1:
        run()
    else:
        what, name, port = sys.argv[1:]
        print(json.dumps(asyncio.run({"cancel": cancel, "consume": consume}[what](name, int(port)))))
