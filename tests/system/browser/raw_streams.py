"""A site for one page, whose streams are written byte by byte by the test. It runs in the tests' event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.support.sites import ROOT

STATIC = ROOT / "streams" / "static" / "streams"
PAGE = b'<!doctype html><html lang=en><link rel=icon href="data:,"><title>Page</title><body>'
TYPES = {".js": "text/javascript", ".html": "text/html"}


class Request:
    def __init__(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        first, *fields = head.decode().split("\r\n")[:-2]
        self.method, self.target, _ = first.split(" ")
        self.path = urlsplit(self.target).path
        self.query = {name: values[-1] for name, values in parse_qs(urlsplit(self.target).query).items()}
        self.headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        self._writer = writer

    async def start(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        """Send the head of a response that ends with the connection."""
        lines = [f"HTTP/1.1 {status} Status", "Connection: close", "Access-Control-Allow-Credentials: true"]
        lines += [f"Access-Control-Allow-Origin: {self.headers.get('origin', '*')}"]
        lines += [f"Content-Type: {kind}"] if kind else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]))

    async def send(self, *chunks: bytes | str) -> None:
        for chunk in chunks:
            self._writer.write(chunk.encode() if isinstance(chunk, str) else chunk)
            await self._writer.drain()
            await asyncio.sleep(0.002)  # so that the chunks arrive one by one

    async def until_gone(self) -> None:
        """Keep the connection open until the client closes it."""
        await asyncio.Event().wait()

    def reset(self) -> None:
        """End the connection with an error."""
        self._writer.transport.abort()


async def send_and_hold(request: Request, text: str = "data: hello\n\n") -> None:
    await request.start()
    await request.send(text)
    await request.until_gone()


Answer = Callable[[Request], Awaitable[None]]


class RawSite:
    """`answer` writes the response to each request of a stream; the connection is closed when it returns."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Answer = self._quiet
        self.files: dict[str, bytes] = {"/": PAGE}
        self.open = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None] | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> RawSite:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks - {None}:
            assert task is not None
            task.cancel()

    async def request(self, number: int, seconds: float = 30) -> Request:
        """Return the request with this number, counted from 0, once it has arrived."""
        async with asyncio.timeout(seconds):
            while len(self.requests) <= number:
                await asyncio.sleep(0.01)
        return self.requests[number]

    async def _quiet(self, request: Request) -> None:
        await request.start()
        await request.send(":\n")
        await request.until_gone()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            request = Request(await reader.readuntil(b"\r\n\r\n"), writer)
            if (content := self._file(request.path)) is not None:
                await request.start(200, TYPES.get(Path(request.path).suffix, "text/html"))
                await request.send(content)
            else:
                self.requests.append(request)
                self.open += 1
                answer, gone = asyncio.ensure_future(self.answer(request)), asyncio.ensure_future(reader.read())
                try:
                    await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self.open -= 1
                    answer.cancel()
                    gone.cancel()
        writer.close()

    def _file(self, path: str) -> bytes | None:
        if path in self.files or not path.startswith("/static/streams/"):
            return self.files.get(path)
        return (STATIC / path.removeprefix("/static/streams/")).read_bytes()
