"""All servers behind nginx are down for some seconds, as in a deployment that restarts everything at once.

The nginx.conf of the docs then answers stream requests with an empty stream, so that an EventSource reconnects. A 502
would stop it permanently. tests/system/browser/test_behind_nginx.py tests the same with a real browser.
"""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message

import httpx
import httpx_sse
import pytest
from django.db import OperationalError
from django.http import HttpRequest

from streams.policies import BasePolicy
from tests.support.services import missing, nginx
from tests.support.services.nginx import NginxServer
from tests.support.sites import Server, Site

pytestmark = pytest.mark.once

AWAY = b"retry: 2000\n"  # no blank line, because httpx-sse and other clients would dispatch an event for it
ORIGIN = "https://app.example"


def _nginx_for(server: Server, *, secure: bool = False) -> NginxServer:
    if nginx.program() is None:
        missing("nginx", "nginx")
    return NginxServer([server.port] * 4, secure=secure).start()


@pytest.fixture
def server(sqlite_site: Site) -> Server:
    return sqlite_site.serve()


@pytest.fixture
def proxy(server: Server) -> Iterator[NginxServer]:
    proxy = _nginx_for(server)
    yield proxy
    proxy.remove()


def get(proxy: NginxServer, path: str, **headers: str) -> tuple[int, Message, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{proxy.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


@pytest.mark.parametrize("path", ["/events/news/", "/events/?channel=news", "/ai/generations/some-id/events/"])
def test_stream_without_a_server_is_empty(proxy: NginxServer, server: Server, path: str) -> None:
    server.stop()
    status, headers, body = get(proxy, path)
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "text/event-stream", "no-store")
    assert body == AWAY
    assert headers["Access-Control-Allow-Origin"] is headers["Access-Control-Allow-Credentials"] is None

    _, headers, body = get(proxy, path, Origin=ORIGIN)
    assert (headers["Access-Control-Allow-Origin"], headers["Access-Control-Allow-Credentials"]) == (ORIGIN, "true")
    assert headers["Vary"] == "Origin"
    assert body == AWAY
    log = (proxy.folder / "access.log").read_text().splitlines()
    assert all('" 200 ' in line and "502" in line.rpartition("upstream=")[2] for line in log)


def test_stream_with_end_error_has_no_response(server: Server) -> None:
    """A client that takes an empty stream as the end sees an error, also over HTTP/2, and comes back."""
    proxy = _nginx_for(server, secure=True)
    server.stop()
    try:
        with httpx.Client(http2=True, verify=False, timeout=60) as client:
            for url in (f"http://127.0.0.1:{proxy.port}", f"https://127.0.0.1:{proxy.secure_port}"):
                with pytest.raises(httpx.RemoteProtocolError):
                    client.get(f"{url}/events/news/?end=error")
                assert client.get(f"{url}/events/news/?end=clean").content == AWAY
    finally:
        proxy.remove()


@pytest.mark.parametrize("path", ["/", "/ai/v1/models", "/ai/generations/some-id/", "/api/health/ready"])
def test_request_for_no_stream_gets_the_502(proxy: NginxServer, server: Server, path: str) -> None:
    """Pages, API clients and health checks need the status."""
    server.stop()
    assert get(proxy, path)[0] == 502


def test_refusals_of_the_site_pass_as_they_are(proxy: NginxServer) -> None:
    for path, status, code in [("/events/", 400, b'"code"'), ("/events/private/", 403, b'"forbidden"')]:
        answered, headers, body = get(proxy, path)
        assert answered == status
        assert headers["Content-Type"] == "application/json"
        assert code in body


def test_limit_of_streams_passes_as_429(sqlite_site: Site) -> None:
    proxy = _nginx_for(sqlite_site.settings(MAX_STREAMS_PER_PROCESS=1).serve())
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy.port}/events/news/", timeout=60):
            status, headers, _ = get(proxy, "/events/news/")
            assert status == 429
            assert headers["Retry-After"]
    finally:
        proxy.remove()


class PolicyWithoutADatabase(BasePolicy):
    """A policy whose database does not answer."""

    def can_subscribe(self, request: HttpRequest, channel: str) -> bool:
        raise OperationalError("the server at db.example does not answer")


def test_stream_without_a_database_is_empty(sqlite_site: Site) -> None:
    """A server that cannot ask the policy answers 503, which would also stop an EventSource permanently."""
    server = sqlite_site.settings(POLICY=f"{__name__}.PolicyWithoutADatabase").serve()
    proxy = _nginx_for(server)
    try:
        with pytest.raises(urllib.error.HTTPError, match="503"):
            server.json("/events/news/")
        status, headers, body = get(proxy, "/events/news/")
        assert (status, headers["Content-Type"], body) == (200, "text/event-stream", AWAY)
    finally:
        proxy.remove()


class Reader:
    """A Python client that reconnects after each stream's end, as an EventSource does, and stops at an error."""

    def __init__(self, proxy: NginxServer) -> None:
        self.url = f"http://127.0.0.1:{proxy.port}/events/news/"
        self.received: list[str] = []
        self.connections = 0
        self._cursor = ""

    async def read(self) -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            while True:
                self.connections += 1
                headers = {"Last-Event-ID": self._cursor} if self._cursor else {}
                try:
                    async with httpx_sse.aconnect_sse(client, "GET", self.url, headers=headers) as source:
                        source.response.raise_for_status()
                        async for event in source.aiter_sse():
                            self._cursor = event.id or self._cursor
                            if event.event == "message":
                                self.received.append(event.data)
                except httpx.RemoteProtocolError:  # the server was killed in the middle of the response
                    pass
                await asyncio.sleep(0.5)


async def test_python_client_gets_every_message_once(proxy: NginxServer, server: Server, sqlite_site: Site) -> None:
    published: list[str] = []

    async def publish(count: int = 1) -> None:
        for _ in range(count):
            published.append(f"number {len(published)}")
            await asyncio.to_thread(sqlite_site.manage, "publish", "news", published[-1])

    reader = Reader(proxy)
    reading = asyncio.create_task(reader.read())
    try:
        async with asyncio.timeout(120):
            while not reader.received:  # until its stream is open
                await publish()
            await asyncio.to_thread(server.stop)
            connections = reader.connections
            await publish(3)
            while reader.connections < connections + 3:  # at least two empty streams
                assert not reading.done(), reading
                await asyncio.sleep(0.05)
            await asyncio.to_thread(server.start)
            await publish()
            while published[-1] not in reader.received:
                assert not reading.done(), reading
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)  # long enough for a repeated event to arrive
        assert reader.received == published[published.index(reader.received[0]) :]
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
