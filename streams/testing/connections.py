"""The connections of a StreamClient: to the site inside this process, and to a server at a URL."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol
from urllib.parse import urlencode, urljoin, urlsplit

from django.test import AsyncClient

from streams.redaction import hide

CONTENT_TYPE = "text/event-stream"
CHUNK_BYTES = 65_536


class StreamNotOpened(AssertionError):
    """The server did not open the stream. A browser gives up then, and does not try again.

    Attributes:
        status: the HTTP status; 204 if the stream is complete.
        code: the error's code, such as `forbidden`, or "" if the body has none.
        body: the text of the response.
    """

    def __init__(self, url: str, status: int, content_type: str, body: str) -> None:
        self.status = status
        self.body = body
        try:
            self.code = str(json.loads(body)["error"]["code"])
        except (ValueError, KeyError, TypeError):
            self.code = ""
        self.content_type = content_type
        what = f"the status {status}" if status != 200 else f"the content type {content_type!r}"
        super().__init__(f"{hide(url)} did not open a stream, but answered with {what}: {body[:500]}")


class Connection(Protocol):
    """One open stream."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class SiteInProcess:
    """Opens streams with Django's AsyncClient, without a server."""

    def __init__(self, client: Any, path: str) -> None:
        self._client = client
        self._path = path

    async def open(self, headers: Mapping[str, str]) -> Connection:
        response = await self._client.get(self._path, headers=dict(headers))
        content_type = response.headers.get("Content-Type", "")
        if response.status_code == 200 and content_type.startswith(CONTENT_TYPE):
            return _Response(response)
        body = "" if response.streaming else response.text
        raise StreamNotOpened(self._path, response.status_code, content_type, body)

    async def log_in(self, user: Any) -> None:
        await self._client.aforce_login(user)


class _Response:
    def __init__(self, response: Any) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not self._response.streaming:
            yield self._response.content
            return
        async for chunk in self._response:
            yield chunk

    async def aclose(self) -> None:
        # The test client wraps the body in generators, and closing these does not close the body.
        if hasattr(self._response, "aclose"):
            await self._response.aclose()
        else:
            self._response.close()


class SiteAtUrl:
    """Opens streams over HTTP/1.1, each with a thread that reads it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._cookies: dict[str, str] = {}

    async def open(self, headers: Mapping[str, str]) -> Connection:
        connection = _HttpConnection(self._url, {**headers, **self._cookies})
        await connection.start()
        return connection

    async def log_in(self, user: Any) -> None:
        client = AsyncClient()
        await client.aforce_login(user)
        self._cookies["Cookie"] = cookie_header(client)


def cookie_header(client: Any) -> str:
    """Return the Cookie header that a test client sends."""
    return "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())


class _HttpConnection:
    """A GET request whose body a thread reads. asyncio has no HTTP client, and tests need no further package."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        self._headers = {"Accept": CONTENT_TYPE, "Cache-Control": "no-cache", **headers}
        self._loop = asyncio.get_running_loop()
        self._received: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._socket: socket.socket | None = None
        self._closed = False

    async def start(self) -> None:
        threading.Thread(target=self._read, name="streams-test-client", daemon=True).start()
        try:
            if isinstance(first := await self._received.get(), BaseException):
                raise first
        except BaseException:
            await self.aclose()
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._received.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    async def aclose(self) -> None:
        self._closed = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # ends the thread's read

    def _read(self) -> None:
        parts = urlsplit(self._url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        try:
            with contextlib.closing(kind(parts.netloc, timeout=30)) as connection:
                connection.connect()
                self._socket = connection.sock
                path = parts.path or "/"
                connection.request("GET", f"{path}?{parts.query}" if parts.query else path, headers=self._headers)
                self._receive(connection.getresponse())
            self._report(None)
        except http.client.HTTPException as error:  # such as a response that ends within a chunk
            self._report(ConnectionError(f"The connection to {hide(self._url)} was lost: {error!r}"))
        except Exception as error:  # the event loop's code gets it
            self._report(None if self._closed else error)

    def _receive(self, response: http.client.HTTPResponse) -> None:
        content_type = response.getheader("Content-Type", "")
        if response.status != 200 or not content_type.startswith(CONTENT_TYPE):
            body = response.read(CHUNK_BYTES).decode(errors="replace")
            raise StreamNotOpened(self._url, response.status, content_type, body)
        if self._socket is not None:
            self._socket.settimeout(None)
        self._report(b"")  # the stream is open
        while not self._closed and (chunk := response.read1(CHUNK_BYTES)):
            self._report(chunk)

    def _report(self, received: bytes | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._received.put_nowait, received)


def site(target: Any, path: str, token: str | None) -> SiteInProcess | SiteAtUrl:
    """Return the site that `target` stands for: an AsyncClient, a URL, or an object with a `url`."""
    query = urlencode({"token": token}) if token is not None else ""
    if isinstance(target, AsyncClient):
        if not path:
            raise ValueError('StreamClient(client, path) needs the path of the stream, such as "/events/news/".')
        return SiteInProcess(target, _with_query(path, query))
    url = target if isinstance(target, str) else getattr(target, "url", None)
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https"):
        raise TypeError(
            f"StreamClient reads with Django's AsyncClient (in a test case: self.async_client) or from an http URL; "
            f"got {target!r}. Django's sync Client runs under WSGI, which cannot serve streams."
        )
    return SiteAtUrl(_with_query(urljoin(url, path) if path else url, query))


def _with_query(url: str, query: str) -> str:
    return url if not query else f"{url}{'&' if '?' in url else '?'}{query}"
