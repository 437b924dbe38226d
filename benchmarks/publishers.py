"""A program that publishes as fast as it can. `benchmarks publishing` starts it, and sends it jobs on stdin.

Run it by its path, with the measured checkout of Streams first on PYTHONPATH. It imports nothing from this package.
A job is a JSON list: the step ("insert", "publish" or "atomic"), the kind of workers ("processes", "threads" or
"tasks"), their number, and the seconds. The answer is a JSON object on stdout.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import threading
import time
from typing import Any

import django

DATA = {"n": 1, "pad": "x" * 100}  # as in benchmarks.bare

fork = multiprocessing.get_context("fork")


def insert() -> None:
    """Store the row with one INSERT in autocommit mode, the cheapest way in Django."""
    from streams.models import Message

    text = json.dumps(DATA, separators=(",", ":"))
    Message.objects.create(channel="bench", data=text, size=len(text))


def publish() -> None:
    import streams

    streams.publish("bench", DATA)


def atomic() -> None:
    from django.db import transaction

    with transaction.atomic():
        publish()


STEPS = {"insert": insert, "publish": publish, "atomic": atomic}


def repeat(step: Any, end: float, durations: list[float]) -> None:
    """Repeat a step until `end`, and append the duration of each to `durations`."""
    while (began := time.perf_counter()) < end:
        step()
        durations.append(time.perf_counter() - began)


def process(step: Any, start: Any, seconds: float, results: Any) -> None:
    """Run the step in this process, with one connection."""
    from django.db import connections

    step()  # opens the connection
    durations: list[float] = []
    start.wait()
    began = time.perf_counter()
    repeat(step, began + seconds, durations)
    results.put((time.perf_counter() - began, durations, 1))
    connections.close_all()


def threads(count: int, step: Any, seconds: float, results: Any) -> None:
    """Run the step in threads of one process, each with its own connection."""
    from django.db import connections

    durations: list[float] = []
    start = threading.Barrier(count + 1)

    def work() -> None:
        step()
        start.wait()
        repeat(step, time.perf_counter() + seconds, durations)
        connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(count)]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    results.put((time.perf_counter() - began, durations, count))


def tasks(count: int, step: Any, seconds: float, results: Any) -> None:
    """Await apublish() in tasks of one event loop."""
    from streams import apublish

    durations: list[float] = []

    async def work(end: float) -> None:
        while (began := time.perf_counter()) < end:
            await apublish("bench", DATA)
            durations.append(time.perf_counter() - began)

    async def run() -> None:
        await apublish("bench", DATA)
        end = time.perf_counter() + seconds
        await asyncio.gather(*(work(end) for _ in range(count)))

    began = time.perf_counter()
    asyncio.run(run())
    results.put((time.perf_counter() - began, durations, 1))


def run_job(step_name: str, kind: str, count: int, seconds: float) -> dict[str, Any]:
    results, step = fork.SimpleQueue(), STEPS[step_name]
    if kind == "processes":
        start = fork.Barrier(count)
        workers = [fork.Process(target=process, args=(step, start, seconds, results)) for _ in range(count)]
    else:
        target = {"threads": threads, "tasks": tasks}[kind]
        workers = [fork.Process(target=target, args=(count, step, seconds, results))]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    durations = sorted(one for _, some, _ in found for one in some)
    return {
        "rate": sum(len(some) / elapsed for elapsed, some, _ in found),
        "stored": len(durations) + sum(warming for _, _, warming in found),
        "p50": 1000 * durations[len(durations) // 2],
        "p99": 1000 * durations[len(durations) * 99 // 100],
    }


def main() -> None:
    django.setup()
    for line in sys.stdin:
        print(json.dumps(run_job(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
