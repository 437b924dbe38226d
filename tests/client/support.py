"""A server that writes exact bytes, and both event sources behind one interface."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from streams.client import AsyncEventSource, DecodedEvent, EventSource

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
ENDED = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"

# Steps of an answer other than bytes: wait until the client has gone; break the connection.
HOLD = "hold"
RESET = "reset"

Answer = bytes | list[bytes | str]


def status(line: str, body: bytes = b"", **headers: str) -> bytes:
    """Return an answer with a status, such as `429 Too Many Requests`."""
    lines = [f"HTTP/1.1 {line}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Request:
    """A request that the server has received."""

    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = first.split(" ")
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    def __repr__(self) -> str:
        return f"{self.method} {self.target} {self.headers}"


class RawServer:
    """Answers each connection with the next of its answers, and the last one again and again."""

    def __init__(self, *answers: Answer, port: int = 0) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.left = threading.Event()  # a client has closed a connection that was held
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/events/news/"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        workers = []
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                connection.settimeout(20)
                workers.append(threading.Thread(target=self._answer, args=[connection], daemon=True))
                workers[-1].start()
        for worker in workers:
            worker.join(1)

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                if not (received := connection.recv(65_536)):
                    return
                head += received
            answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
            self.requests.append(Request(head.removesuffix(b"\r\n\r\n")))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for step in [answer] if isinstance(answer, bytes) else answer:
                if isinstance(step, bytes):
                    connection.sendall(step)
                elif step == HOLD:
                    with contextlib.suppress(ConnectionError):
                        connection.recv(1)
                    self.left.set()
                elif step == RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


class InLoop:
    """An AsyncEventSource with the interface of an EventSource. It runs on an event loop of its own."""

    def __init__(self, url: str, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.source = self.loop.run_until_complete(self._make(url, options))

    async def _make(self, url: str, options: dict[str, Any]) -> AsyncEventSource:
        return AsyncEventSource(url, **options)

    def __iter__(self) -> Iterator[DecodedEvent]:
        return self

    def __next__(self) -> DecodedEvent:
        try:
            return self.loop.run_until_complete(self.source.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> InLoop:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self.source)

    @property
    def last_event_id(self) -> str:
        return self.source.last_event_id

    def close(self) -> None:
        self.loop.run_until_complete(self.source.aclose())
        self.loop.close()


class Kind:
    """A kind of event source: sync or async, with httpx2 or httpx."""

    def __init__(self, name: str) -> None:
        kind, library = name.split("-")
        self.is_async = kind == "async"
        self.library = import_module(library)

    def new_client(self, **options: Any) -> Any:
        # Without certificates, because loading them takes most of the time of a test.
        client = self.library.AsyncClient if self.is_async else self.library.Client
        return client(trust_env=False, verify=False, **options)

    def __call__(self, url: str, **options: Any) -> Any:
        options = {"client": self.new_client(), "retry_seconds": 0.0, **options}
        return (InLoop if self.is_async else EventSource)(url, **options)


KINDS = ("sync-httpx2", "async-httpx2", "sync-httpx", "async-httpx")
