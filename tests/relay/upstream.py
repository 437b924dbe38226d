"""An upstream process over raw sockets. Tests script its responses, valid or broken, and can read its requests.

    python -m tests.relay.upstream PORT

The last message of a request is a JSON list of steps, which the upstream follows:

    ["head", STATUS, [[NAME, VALUE] …]]   send the head; without Content-Length or Transfer-Encoding, the body ends when
                                          the connection closes
    ["chunk", TEXT]                       send a chunk of a chunked body; "" is the last one
    ["send", TEXT]                        send the text unchanged, encoded as Latin-1
    ["wait", SECONDS]
    ["close"] ["reset"]                   close the connection normally, or reset it
    ["repeat", TIMES, STEPS]

`GET /seen/NAME` returns the requests with the `user` NAME: their headers and bodies, and when the connection was lost,
by the system's monotonic clock. `GET /seen` returns the number of connections.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from typing import Any

seen: dict[str, list[dict[str, Any]]] = {}
connections: set[Connection] = set()


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.task: asyncio.Task[None] | None = None
        self.notes: list[dict[str, Any]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        connections.discard(self)
        for note in self.notes:
            note["lost_at"] = time.monotonic()
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, blank, rest = self.received.partition(b"\r\n\r\n")
        if not blank:
            return
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name.strip().lower(), value.strip()) for name, _, value in (each.partition(":") for each in lines)]
        length = int(dict(headers).get("content-length", 0))
        if len(rest) < length:
            return
        self.received = rest[length:]
        if line.startswith("GET"):
            self.tell(line.split()[1])
        else:
            self.answer(line, headers, json.loads(rest[:length]))

    def tell(self, path: str) -> None:
        name = path.removeprefix("/seen").strip("/")
        body = json.dumps(seen.get(name, []) if name else {"connections": len(connections) - 1}).encode()
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
        )
        self.transport.close()

    def answer(self, line: str, headers: list[tuple[str, str]], body: dict[str, Any]) -> None:
        note = {"line": line, "headers": headers, "body": body, "lost_at": None, "asked_at": time.monotonic()}
        self.notes.append(note)
        seen.setdefault(body.get("user", ""), []).append(note)
        self.task = asyncio.create_task(self.follow(json.loads(body["messages"][-1]["content"])))

    async def follow(self, steps: list[list[Any]]) -> None:
        for name, *values in steps:
            if name == "head":
                fields = "".join(f"{key}: {value}\r\n" for key, value in values[1])
                self.transport.write(f"HTTP/1.1 {values[0]} Status\r\n{fields}\r\n".encode("latin-1"))
            elif name == "chunk":
                data = values[0].encode("latin-1")
                self.transport.write(b"%x\r\n%s\r\n" % (len(data), data))
            elif name == "send":
                self.transport.write(values[0].encode("latin-1"))
            elif name == "wait":
                await asyncio.sleep(values[0])
            elif name == "close":
                self.transport.close()
            elif name == "reset":
                await asyncio.sleep(0.05)  # so that the client has read the bytes sent so far
                raw_socket: socket.socket = self.transport.get_extra_info("socket")
                raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.transport.abort()
            elif name == "repeat":
                for _ in range(values[0]):
                    await self.follow(values[1])
                    await self.taken()
            else:
                raise ValueError(name)

    async def taken(self) -> None:
        """Wait until the write buffer is small. If the client has disconnected, wait until this task is cancelled."""
        while self.transport.is_closing() or self.transport.get_write_buffer_size() > 1_000_000:
            await asyncio.sleep(0.002)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=1000)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
