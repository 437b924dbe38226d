"""Publishing: messages a second, alone, in 16 threads and in 100 tasks, beside a bare INSERT of the same row."""

from __future__ import annotations

import subprocess

from benchmarks import rig
from tests.sites import PYTHON, ROOT

SECONDS = 3.0

WORKER = """
import asyncio, sys, threading, time
import django; django.setup()
from django.db import connection, connections
from django.utils import timezone
from benchmarks.bare import payload
from streams import apublish, publish
from streams.models import Message

what, how, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
end, done = time.perf_counter() + seconds, []

def insert(n):
    Message.objects.bulk_create([Message(channel="bare", data="x" * 110, size=110)])

def work(step):
    n = 0
    while time.perf_counter() < end:
        step(n)
        n += 1
    done.append(n)
    connections.close_all()

async def tasks():
    async def one():
        n = 0
        while time.perf_counter() < end:
            await apublish("bench", payload(n))
            n += 1
        done.append(n)
    await asyncio.gather(*(one() for _ in range(100)))

step = insert if what == "insert" else lambda n: publish("bench", payload(n))
start = time.perf_counter()
if how == "tasks":
    asyncio.run(tasks())
else:
    threads = [threading.Thread(target=work, args=(step,)) for _ in range(int(how))]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print(sum(done) / (time.perf_counter() - start))
"""


def _rate(url: str, what: str, how: str) -> float:
    argv = [PYTHON, "-c", WORKER, what, how, str(SECONDS)]
    done = subprocess.run(argv, env=rig.environment(url), cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout)


def run(rounds: int = 3) -> None:
    rows = []
    for kind in ("sqlite", "postgresql"):
        # Two databases: the rows of a bare INSERT have no position, and a publish would give them one.
        with rig.database(kind) as for_inserts, rig.database(kind) as for_us:
            for name, how, bare_how in (("alone", "1", "1"), ("16 threads", "16", "16"), ("100 tasks", "tasks", "16")):
                bare = max(_rate(for_inserts, "insert", bare_how) for _ in range(rounds))
                ours = max(_rate(for_us, "publish", how) for _ in range(rounds))
                rows.append([kind, name, f"{bare:,.0f}", f"{ours:,.0f}", ours / bare])
    rig.table(
        f"Publishing, messages a second (best of {rounds}; 100 tasks beside 16 threads of INSERTs)",
        ["database", "publishers", "bare INSERT", "publish", "ratio"],
        rows,
    )
