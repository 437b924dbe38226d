"""Many clients of one stream, in their own process. They count events, and measure how old the events are.

    python -m benchmarks.clients PORT PATH CONNECTIONS EVENTS SECONDS [--channels N] [HEADER …]

It prints READY when all streams are open, and one JSON object when each client has received EVENTS events, or SECONDS
have passed. EVENTS can be several numbers such as 100,2000: there is one JSON object for each. A `{}` in PATH is
replaced by a channel's number. It stays connected until it is killed, so that the cost of disconnecting is not counted
as delivery.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from typing import cast

from benchmarks import files

MARK = b'"n":'
SENT = (
    b'"at":'  # followed by the publisher's time.monotonic_ns(), which is the same clock in all processes of a machine
)

# One address of loopback has 28,000 ports for clients. More clients than this use further addresses.
CLIENTS_PER_ADDRESS = 10_000

OPEN_SECONDS = 300.0  # for all streams; a server that needs longer has failed


class Client(asyncio.Protocol):
    """One connection. Each MARK counts as an event, and a MARK can be split between two chunks."""

    def __init__(self, crowd: Crowd, request: bytes) -> None:
        self.crowd = crowd
        self.request = request
        self.events = 0
        self.tail = b""
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self.request)  # uvloop's is not a subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        if not self.open and b"\r\n\r\n" in data:
            self.open = True
            self.crowd.opened(data)
        text = self.tail + data
        found = text.count(MARK)
        self.tail = text[-len(MARK) + 1 :]
        if found:
            self.events += found
            self.crowd.received(self, found, text)

    def connection_lost(self, error: Exception | None) -> None:
        self.crowd.lost += 1


class Crowd:
    def __init__(self, options: argparse.Namespace) -> None:
        self.port, self.path, self.size = options.port, options.path, options.size
        self.phases, self.channels, self.headers = options.events, options.channels, options.headers
        self.quiet = options.quiet
        # A server that loses or repeats events has sent everything when its last event has arrived.
        self.by_last = options.quiet < float("inf")
        self.ready, self.finished = asyncio.Event(), asyncio.Event()
        self.waiting = asyncio.Semaphore(64)
        self.open = self.lost = self.refused = 0
        self.start(0)

    def start(self, events: int) -> None:
        """Start a phase, in which each client is to receive `events` more events."""
        self.goal = getattr(self, "goal", 0) + events
        self.last_mark = b"%s%d," % (MARK, events - 1)
        self.finished.clear()
        self.total = self.complete = 0
        self.first = self.last = 0.0
        self.ages: list[int] = []

    def request(self, number: int) -> bytes:
        path = self.path.replace("{}", str(number % self.channels))
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Accept: text/event-stream", *self.headers]
        return "\r\n".join([*lines, "", ""]).encode()

    def opened(self, head: bytes) -> None:
        self.refused += not head.startswith(b"HTTP/1.1 200")
        self.open += 1
        self.waiting.release()
        if self.open == self.size:
            self.ready.set()

    def received(self, client: Client, found: int, text: bytes) -> None:
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.total += found
        at = text.find(SENT)
        if at >= 0:
            sent, comma, _ = text[at + len(SENT) : at + 30].partition(b",")
            if comma:
                self.ages.append(time.monotonic_ns() - int(sent))
        if (self.last_mark in text) if self.by_last else (client.events >= self.goal > client.events - found):
            self.complete += 1
            if self.complete == self.size:
                self.finished.set()

    async def run(self, seconds: float) -> None:
        start = time.monotonic()
        self.start(self.phases[0])  # a replay can arrive while others still connect
        async with asyncio.timeout(OPEN_SECONDS):
            await self._open()
        opened = time.monotonic() - start
        print("REFUSED" if self.refused else "READY", flush=True)
        for number, events in enumerate(self.phases):
            if number:
                self.start(events)
            await self._wait(seconds)
            ages = sorted(self.ages) or [0]
            found = {
                "open_seconds": opened,
                "connect_seconds": self.last - start if self.total else 0.0,
                "events": self.total,
                "expected": self.size * events,
                "refused": self.refused,
                "lost": self.lost,
                "span_seconds": self.last - self.first,
                "last_at": self.last,  # on the clock of time.monotonic()
                "p50_ms": ages[len(ages) // 2] / 1e6,
                "p99_ms": ages[len(ages) * 99 // 100] / 1e6,
            }
            print(json.dumps(found), flush=True)
        await asyncio.Event().wait()

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        for number in range(self.size):
            await self.waiting.acquire()
            client = Client(self, self.request(number))
            address = f"127.0.0.{1 + number // CLIENTS_PER_ADDRESS}"
            await loop.create_connection(lambda one=client: one, "127.0.0.1", self.port, local_addr=(address, 0))
        await self.ready.wait()

    async def _wait(self, seconds: float) -> None:
        """Wait until all have received everything, or for `seconds`, or until nothing arrives for a while."""
        end = time.monotonic() + seconds
        while not self.finished.is_set() and time.monotonic() < end:
            if self.first and time.monotonic() - self.last > self.quiet:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.finished.wait(), 0.5)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("size", type=int)
    parser.add_argument("events", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("seconds", type=float)
    parser.add_argument("headers", nargs="*")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--quiet", type=float, default=float("inf"), help="give up after so many seconds of silence")
    options = parser.parse_args()
    files.raise_limit()
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop
    else:
        loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop) as runner:

        async def run() -> None:  # its events belong to the running loop
            await Crowd(options).run(options.seconds)

        runner.run(run())


if __name__ == "__main__":
    main()
