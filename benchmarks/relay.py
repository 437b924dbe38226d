"""Relaying, compared with a bare pipe that uses the same HTTP client.

It measures the server's CPU per event and per answer, and the time to the first token of many answers at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from benchmarks import rig
from tests.relay.steps import END, HEAD, Step, chunk, wait
from tests.support.services import accepts, free_port, wait_until
from tests.support.sites import PYTHON, ROOT

STREAMS = 50
AT_ONCE = 200
PACED_EVENTS, PACED_SECONDS = 200, 0.05
BURST_EVENTS = 2000

MARK = b"data: {"
PATH = "/ai/v1/chat/completions"
APPS = ("benchmarks.pipe:application", "benchmarks.site:application")

T = TypeVar("T")

# An event of about 230 bytes with the fields that OpenAI sends if the usage is requested, as the relay does.
PIECE = chunk(
    'data: {"id":"chatcmpl-CgA1vY2QmTn8xKp4ZrWd6LsE","object":"chat.completion.chunk","created":1764500000,'
    '"model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}],'
    '"usage":null}\n\n'
)
SHORT, SHORT_EVENTS = [HEAD, PIECE, *END], 3
LONG = [HEAD, PIECE, wait(3), *END]  # no answer ends while others wait for their first token


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


async def _read(port: int, steps: list[Step]) -> tuple[int, float]:
    """Read one answer to its end. Return the number of its events, and the seconds until the first one."""
    asked_at = time.perf_counter()
    messages = [{"role": "user", "content": json.dumps(steps)}]
    payload = {"model": "m", "stream": True, "stream_options": {"include_usage": True}, "messages": messages}
    body = json.dumps(payload).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        % (PATH.encode(), len(body), body)
    )
    await reader.readuntil(b"\r\n\r\n")
    found, tail, first_seconds = 0, b"", 0.0
    while size := int(await reader.readline(), 16):
        text = tail + (await reader.readexactly(size + 2))[:-2]
        found += text.count(MARK)
        tail = text[-len(MARK) + 1 :]
        if found and not first_seconds:
            first_seconds = time.perf_counter() - asked_at
    writer.close()
    return found, first_seconds


async def _read_all(port: int, steps: list[Step], streams: int) -> int:
    return sum([found for found, _ in await asyncio.gather(*(_read(port, steps) for _ in range(streams)))])


async def _first_tokens(port: int) -> list[float]:
    """Request AT_ONCE answers at once. Return the milliseconds until the first event of each."""
    answers = await asyncio.gather(*(_read(port, LONG) for _ in range(AT_ONCE)))
    if found := sum(events != SHORT_EVENTS for events, _ in answers):
        raise RuntimeError(f"{found} of {AT_ONCE} answers are incomplete.")
    return [seconds * 1e3 for _, seconds in answers]


def _costs(server: rig.Server, steps: list[Step], events: int) -> tuple[float, float]:
    """Return the CPU microseconds per event, and the CPU milliseconds per answer with almost no events."""

    def spent(steps: list[Step], expected: int) -> float:
        before = server.cpu_seconds()
        found = asyncio.run(_read_all(server.port, steps, STREAMS))
        if found != STREAMS * expected:
            raise RuntimeError(f"Not everything arrived: {found} events of {STREAMS * expected}.")
        return (server.cpu_seconds() - before) / STREAMS

    spent(SHORT, SHORT_EVENTS)  # the first answer includes work that is done only once
    answer = statistics.median(spent(SHORT, SHORT_EVENTS) for _ in range(5))
    return (spent(steps, events + 2) - answer) / events * 1e6, answer * 1e3


def _compare(kinds: list[str], url: str, rounds: int, measure: Callable[[rig.Server], T]) -> dict[str, list[list[T]]]:
    """Return what `measure` returns for the bare pipe and for Streams, in each round, by server."""
    found: dict[str, list[list[T]]] = {kind: [[], []] for kind in kinds}
    for kind in kinds:
        for _ in range(rounds):  # alternate, so that other load on the machine affects both
            for app, values in zip(APPS, found[kind], strict=True):
                with rig.server(kind, app, url) as server:
                    values.append(measure(server))
    return found


def _cost_rows(kinds: list[str], url: str, rounds: int) -> list[list[object]]:
    loads: list[tuple[str, int, list[Step]]] = [
        (
            f"{1 / PACED_SECONDS:.0f} events/s in each",
            PACED_EVENTS,
            [HEAD, ["repeat", PACED_EVENTS, [PIECE, wait(PACED_SECONDS)]], *END],
        ),
        (
            f"{BURST_EVENTS:,} at once in each",
            BURST_EVENTS,
            [HEAD, ["repeat", BURST_EVENTS, [PIECE]], *END],
        ),
    ]
    rows: list[list[object]] = []
    for name, events, steps in loads:
        found = _compare(kinds, url, rounds, functools.partial(_costs, steps=steps, events=events))
        for kind, sides in found.items():
            each = [statistics.median(event for event, _ in costs) for costs in sides]
            answer = [statistics.median(answer for _, answer in costs) for costs in sides]
            rows.append([kind, name, *each, each[1] / each[0], *answer])
    return rows


def _first_token_rows(kinds: list[str], url: str, rounds: int) -> list[list[object]]:
    def measure(server: rig.Server) -> tuple[float, float]:
        asyncio.run(_read_all(server.port, SHORT, STREAMS))  # the first answer includes work that is done only once
        found = asyncio.run(_first_tokens(server.port))
        return statistics.median(found), statistics.quantiles(found, n=20)[-1]

    rows: list[list[object]] = []
    for kind, sides in _compare(kinds, url, rounds, measure).items():
        bare, ours = ([statistics.median(values) for values in zip(*side, strict=True)] for side in sides)
        rows.append([kind, bare[0], ours[0], ours[0] / bare[0], bare[1], ours[1], ours[1] / bare[1]])
    return rows


def run(kinds: list[str], rounds: int = 3) -> None:
    with rig.database("sqlite") as url, upstream() as port:
        os.environ |= {"CHAT_BASE_URL": f"http://127.0.0.1:{port}/v1", "CHAT_MODELS": "m", "CHAT_OPEN_TO_ALL": "true"}
        costs = _cost_rows(kinds, url, rounds)
        first_tokens = _first_token_rows(kinds, url, rounds)
    rig.table(
        f"Relaying {STREAMS} answers: CPU per event (median of {rounds})",
        ["server", "load", "bare pipe, µs", "Streams, µs", "ratio", "bare, ms an answer", "Streams, ms an answer"],
        costs,
    )
    rig.table(
        f"{AT_ONCE} answers requested at once: time to the first token (median of {rounds})",
        ["server", "bare median, ms", "Streams median, ms", "ratio", "bare p95, ms", "Streams p95, ms", "ratio"],
        first_tokens,
    )
