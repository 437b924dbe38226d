"""A program that publishes as fast as it can. `benchmarks publishing` starts it, and sends it orders on stdin.

Run it by its path, with the checkout of Streams to be measured first on PYTHONPATH: it imports nothing of this package.
An order is a JSON list: what to do ("insert", "publish" or "atomic"), who does it ("processes", "threads" or "tasks"),
how many of them, and for how many seconds. The answer is a JSON object on stdout.
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
    """The least that storing the row costs in Django: one INSERT that commits by itself."""
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


def repeat(step: Any, end: float, took: list[float]) -> None:
    """Do a step until `end`, and write down how long each took."""
    while (began := time.perf_counter()) < end:
        step()
        took.append(time.perf_counter() - began)


def process(step: Any, start: Any, seconds: float, results: Any) -> None:
    """One process with one connection."""
    from django.db import connections

    step()  # opens the connection
    took: list[float] = []
    start.wait()
    began = time.perf_counter()
    repeat(step, began + seconds, took)
    results.put((time.perf_counter() - began, took, 1))
    connections.close_all()


def threads(count: int, step: Any, seconds: float, results: Any) -> None:
    """Threads of one process, each with its connection."""
    from django.db import connections

    took: list[float] = []
    start = threading.Barrier(count + 1)

    def work() -> None:
        step()
        start.wait()
        repeat(step, time.perf_counter() + seconds, took)
        connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(count)]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    results.put((time.perf_counter() - began, took, count))


def tasks(count: int, step: Any, seconds: float, results: Any) -> None:
    """Tasks of one event loop, which await apublish()."""
    from streams import apublish

    took: list[float] = []

    async def work(end: float) -> None:
        while (began := time.perf_counter()) < end:
            await apublish("bench", DATA)
            took.append(time.perf_counter() - began)

    async def run() -> None:
        await apublish("bench", DATA)
        end = time.perf_counter() + seconds
        await asyncio.gather(*(work(end) for _ in range(count)))

    began = time.perf_counter()
    asyncio.run(run())
    results.put((time.perf_counter() - began, took, 1))


def obey(what: str, who: str, count: int, seconds: float) -> dict[str, Any]:
    results, step = fork.SimpleQueue(), STEPS[what]
    if who == "processes":
        start = fork.Barrier(count)
        workers = [fork.Process(target=process, args=(step, start, seconds, results)) for _ in range(count)]
    else:
        target = {"threads": threads, "tasks": tasks}[who]
        workers = [fork.Process(target=target, args=(count, step, seconds, results))]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    took = sorted(one for _, some, _ in found for one in some)
    return {
        "rate": sum(len(some) / elapsed for elapsed, some, _ in found),
        "stored": len(took) + sum(warming for _, _, warming in found),
        "p50": 1000 * took[len(took) // 2],
        "p99": 1000 * took[len(took) * 99 // 100],
    }


def main() -> None:
    django.setup()
    for line in sys.stdin:
        print(json.dumps(obey(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
