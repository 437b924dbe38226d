"""Many clients of one stream, in their own process. They only count events.

    python -m benchmarks.clients PORT PATH CONNECTIONS EVENTS SECONDS [HEADER …]

It prints READY when all streams are open, and one JSON object when each client has received EVENTS events or SECONDS
have passed. It stays connected until it is killed, so that the cost of disconnecting is not counted as delivery.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

MARK = b'"n":'


class Client(asyncio.Protocol):
    """One connection. Each MARK counts as an event, and a MARK can be split between two chunks."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.events = 0
        self.tail = b""
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.crowd.request)

    def data_received(self, data: bytes) -> None:
        if not self.open and b"\r\n\r\n" in data:
            self.open = True
            self.crowd.opened(data)
        text = self.tail + data
        found = text.count(MARK)
        self.tail = text[-len(MARK) + 1 :]
        if found:
            self.events += found
            self.crowd.received(self, found)

    def connection_lost(self, error: Exception | None) -> None:
        self.crowd.lost += 1


class Crowd:
    def __init__(self, port: int, path: str, size: int, events: int, headers: list[str]) -> None:
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Accept: text/event-stream", *headers, "", ""]
        self.request = "\r\n".join(lines).encode()
        self.port, self.size, self.events = port, size, events
        self.ready, self.finished = asyncio.Event(), asyncio.Event()
        self.waiting = asyncio.Semaphore(64)
        self.open = self.lost = self.total = self.complete = self.refused = 0
        self.first = self.last = 0.0

    def opened(self, head: bytes) -> None:
        self.refused += not head.startswith(b"HTTP/1.1 200")
        self.open += 1
        self.waiting.release()
        if self.open == self.size:
            self.ready.set()

    def received(self, client: Client, found: int) -> None:
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.total += found
        if client.events >= self.events > client.events - found:
            self.complete += 1
            if self.complete == self.size:
                self.finished.set()

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        start = time.perf_counter()
        clients = []
        for _ in range(self.size):
            await self.waiting.acquire()
            clients.append(await loop.create_connection(lambda: Client(self), "127.0.0.1", self.port))
        await self.ready.wait()
        print("REFUSED" if self.refused else "READY", flush=True)
        try:
            async with asyncio.timeout(seconds):
                await self.finished.wait()
        except TimeoutError:
            pass
        found = {
            "connect_seconds": self.last - start if self.events else 0.0,
            "events": self.total,
            "expected": self.size * self.events,
            "refused": self.refused,
            "lost": self.lost,
            "span_seconds": self.last - self.first,
        }
        print(json.dumps(found), flush=True)
        await asyncio.Event().wait()


def main() -> None:
    port, path, size, events, seconds, *headers = sys.argv[1:]
    crowd = Crowd(int(port), path, int(size), int(events), headers)
    asyncio.run(crowd.run(float(seconds)))


if __name__ == "__main__":
    main()
