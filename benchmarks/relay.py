"""Relaying: the server's CPU per event and per answer, compared with a bare pipe that uses the same HTTP client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
from collections.abc import Iterator

from benchmarks import rig
from tests.relay.steps import END, HEAD, Step, piece, wait
from tests.support.services import accepts, free_port, wait_until
from tests.support.sites import PYTHON, ROOT

STREAMS = 50
PACED_EVENTS, PACED_SECONDS = 200, 0.05
BURST_EVENTS = 2000

MARK = b"data: {"
PATH = "/ai/v1/chat/completions"


@contextlib.contextmanager
def upstream() -> Iterator[int]:
    """Start an upstream process, and yield its port."""
    port = free_port()
    process = subprocess.Popen([PYTHON, "-m", "tests.relay.upstream", str(port)], cwd=ROOT)
    try:
        wait_until(lambda: accepts(port), "the start of the upstream")
        yield port
    finally:
        process.kill()
        process.wait()


async def _read(port: int, steps: list[Step]) -> int:
    """Read one answer to its end, and return the number of its events."""
    payload = {"model": "m", "stream": True, "messages": [{"role": "user", "content": json.dumps(steps)}]}
    body = json.dumps(payload).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        % (PATH.encode(), len(body), body)
    )
    await reader.readuntil(b"\r\n\r\n")
    found, tail = 0, b""
    while size := int(await reader.readline(), 16):
        text = tail + (await reader.readexactly(size + 2))[:-2]
        found += text.count(MARK)
        tail = text[-len(MARK) + 1 :]
    writer.close()
    return found


async def _read_all(port: int, steps: list[Step], streams: int) -> int:
    return sum(await asyncio.gather(*(_read(port, steps) for _ in range(streams))))


def _costs(server: rig.Server, steps: list[Step], events: int) -> tuple[float, float]:
    """Return the CPU microseconds per event, and the CPU milliseconds per answer with almost no events."""
    short = [HEAD, piece("x"), *END]

    def spent(steps: list[Step], expected: int) -> float:
        before = server.cpu_seconds()
        found = asyncio.run(_read_all(server.port, steps, STREAMS))
        if found != STREAMS * expected:
            raise RuntimeError(f"Not everything arrived: {found} events of {STREAMS * expected}.")
        return (server.cpu_seconds() - before) / STREAMS

    spent(short, 3)  # the first answer includes work that is done only once
    answer = statistics.median(spent(short, 3) for _ in range(5))
    return (spent(steps, events + 2) - answer) / events * 1e6, answer * 1e3


def run(kinds: list[str], rounds: int = 3) -> None:
    rows = []
    loads: list[tuple[str, int, list[Step]]] = [
        (
            f"{1 / PACED_SECONDS:.0f} events/s in each",
            PACED_EVENTS,
            [HEAD, ["repeat", PACED_EVENTS, [piece("token"), wait(PACED_SECONDS)]], *END],
        ),
        (
            f"{BURST_EVENTS:,} at once in each",
            BURST_EVENTS,
            [HEAD, ["repeat", BURST_EVENTS, [piece("token")]], *END],
        ),
    ]
    with rig.database("sqlite") as url, upstream() as port:
        os.environ |= {"CHAT_BASE_URL": f"http://127.0.0.1:{port}/v1", "CHAT_MODELS": "m", "CHAT_OPEN_TO_ALL": "true"}
        for kind in kinds:
            for name, events, steps in loads:
                bare, ours = [], []
                for _ in range(rounds):  # alternate, so that other load on the machine affects both
                    with rig.server(kind, "benchmarks.pipe:application", url) as server:
                        bare.append(_costs(server, steps, events))
                    with rig.server(kind, "benchmarks.site:application", url) as server:
                        ours.append(_costs(server, steps, events))
                each = [statistics.median(event for event, _ in costs) for costs in (bare, ours)]
                answer = [statistics.median(answer for _, answer in costs) for costs in (bare, ours)]
                rows.append([kind, name, *each, each[1] / each[0], *answer])
    rig.table(
        f"Relaying {STREAMS} answers: CPU per event (median of {rounds})",
        ["server", "load", "bare pipe, µs", "Streams, µs", "ratio", "bare, ms an answer", "Streams, ms an answer"],
        rows,
    )
