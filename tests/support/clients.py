"""An SSE client on a plain socket. It keeps the cursor as an EventSource does, but can also misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

from streams.protocol.sse import DecodedEvent, EventStreamDecoder

TCP_REPAIR = 19  # linux/tcp.h


@dataclass(eq=False)
class StreamClient:
    """A client of a stream, and the events that it received. `last_event_id` and `events` are kept over reconnects."""

    port: int
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    events: list[DecodedEvent] = field(default_factory=list)
    control: list[DecodedEvent] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    status: int = 0
    response_headers: dict[str, str] = field(default_factory=dict)
    last_event_id: str = ""

    def __post_init__(self) -> None:
        _made.add(self)

    async def connect(self, *, receive_buffer: int | None = None) -> StreamClient:
        """Send the request and read the response's head. `receive_buffer` limits the kernel's buffer, in bytes."""
        connection = socket.socket()
        connection.setblocking(False)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
        # The limit is small, so that unread bytes stay in the kernel and not in this process.
        self._reader, self._writer = await asyncio.open_connection(sock=connection, limit=2**16)
        headers = {"Host": f"127.0.0.1:{self.port}", "Accept": "text/event-stream", **self.headers}
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        lines = [f"GET {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        self._writer.write("\r\n".join([*lines, "", ""]).encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(head[0].split()[1])
        pairs = (line.split(":", 1) for line in head[1:] if line)
        self.response_headers = {name.lower(): value.strip() for name, value in pairs}
        self._chunk_left: int | None = None
        self._decoder = EventStreamDecoder()
        self._decoder.last_event_id = self.last_event_id
        return self

    async def chunk(self) -> bytes:
        """Return the next piece of the body, or b"" at its end."""
        if self.response_headers.get("transfer-encoding") != "chunked":
            return await self._reader.read(2**16)
        await self._begin_chunk()
        data = await self._reader.readexactly(self._chunk_left + len(b"\r\n"))
        self._chunk_left = None
        return data[:-2]

    async def _begin_chunk(self) -> None:
        """Read a chunk's head, unless it was read before a wait for its body that was cancelled."""
        if self._chunk_left is None:
            self._chunk_left = int((await self._reader.readline() or b"0").split(b";")[0], 16)

    async def read(self) -> bool:
        """Read one piece and record its events. Return False at the end of the stream."""
        try:
            data = await self.chunk()
        except (asyncio.IncompleteReadError, ConnectionError):
            data = b""
        return self._take(data)

    async def bite(self, max_bytes: int) -> None:
        """Read at most `max_bytes` bytes of the next piece, as if the connection broke in the middle of an event.

        After this, the client can only leave.
        """
        try:
            if self.response_headers.get("transfer-encoding") == "chunked":
                await self._begin_chunk()
            self._take(await self._reader.read(max_bytes))
        except ConnectionError:
            pass

    def _take(self, data: bytes) -> bool:
        self.raw += data
        for event in self._decoder.feed(data):
            (self.control if event.event.startswith("stream-") else self.events).append(event)
        self.last_event_id = self._decoder.last_event_id
        return bool(data)

    async def read_until(self, count: int, timeout: float = 60.0) -> list[DecodedEvent]:
        """Read until there are `count` events in all, or the stream ends."""
        async with asyncio.timeout(timeout):
            while len(self.events) < count and await self.read():
                pass
        return self.events

    async def read_control(self, count: int, timeout: float = 60.0) -> list[DecodedEvent]:
        """Read until there are `count` control events in all, or the stream ends."""
        async with asyncio.timeout(timeout):
            while len(self.control) < count and await self.read():
                pass
        return self.control

    async def read_for(self, seconds: float) -> None:
        """Read for this time, or until the stream ends."""
        try:
            async with asyncio.timeout(seconds):
                while await self.read():
                    pass
        except TimeoutError:
            pass

    def widen(self, receive_buffer: int) -> None:
        """Enlarge the kernel's receive buffer, because with a small one, reading megabytes takes minutes."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

    def abort(self) -> None:
        """Leave at once, with an RST."""
        linger_for_no_time = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_no_time)
        self._writer.transport.abort()

    def leave(self) -> None:
        """Leave at once, whether or not the client is connected."""
        if hasattr(self, "_writer"):
            with contextlib.suppress(OSError):  # the server has closed the connection already
                self.abort()

    def vanish(self) -> None:
        """Disappear without notifying the server, like a machine without power. Needs Linux and CAP_NET_ADMIN."""
        self._writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        self._writer.transport.abort()

    async def close(self) -> None:
        """Leave with a FIN."""
        self._writer.close()


def leave_all() -> None:
    """Close all connections that a test has left open, also if it failed. Call this before its event loop is closed."""
    while _made:
        client = _made.pop()
        if hasattr(client, "_writer"):
            with contextlib.suppress(RuntimeError):  # a failed test has closed its event loop already
                client._writer.transport.abort()


_made: set[StreamClient] = set()
