"""Streams that end with an error on request (`?end=error`), for clients on fetch(), which stop at a clean end."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from streams.protocol.sse import EventStreamDecoder
from tests.support.sites import SERVERS, Site, command
from tests.system.servers.conftest import DIRECT, OURS, STOCK
from tests.system.servers.holdings import ask

pytestmark = pytest.mark.once

EVERYWHERE = [(server, app) for app in (OURS, STOCK) for server in SERVERS]
OF_STREAMS = [(server, app) for app in (OURS, DIRECT) for server in SERVERS]

NUMBERS = "/test/response/numbers/?n=100&pause=0.05&timeout=0.5"


async def body(url: str, **options: Any) -> bytes:
    """Read a whole response. Raise httpx.RemoteProtocolError if it is incomplete."""
    async with httpx.AsyncClient(timeout=30, **options) as client:
        return (await client.get(url)).content


class FetchClient:
    """A client that behaves like @microsoft/fetch-event-source 2.0.1 and Datastar's copy of it.

    It stops at a clean end. After an error, it reconnects with the last id in a header.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.headers: dict[str, str] = {}
        self.data: list[str] = []
        self.errors = 0
        self.connected = asyncio.Event()

    async def run(self) -> None:
        while True:
            try:
                async with (
                    httpx.AsyncClient(timeout=30) as client,
                    client.stream("GET", self.url, headers=self.headers) as response,
                ):
                    await self._read(response.aiter_bytes())
                return
            except httpx.TransportError:
                self.errors += 1
                await asyncio.sleep(0.2)

    async def _read(self, chunks: AsyncIterator[bytes]) -> None:
        decoder = EventStreamDecoder()
        async for chunk in chunks:
            for event in decoder.feed(chunk):
                self.headers["last-event-id"] = event.id
                self.connected.set()
                if not event.event.startswith("stream-"):
                    self.data.append(event.data)


@pytest.mark.parametrize(("server", "app"), EVERYWHERE)
async def test_stream_that_times_out_ends_as_it_was_asked_to(sqlite_site: Site, server: str, app: str) -> None:
    running = sqlite_site.serve(server, app)
    clean = await body(f"{running.url}{NUMBERS}&end=clean")
    assert clean.count(b"data:") > 1
    with pytest.raises(httpx.RemoteProtocolError):
        await body(f"{running.url}{NUMBERS}&end=error")
    # If the iterator itself ends, the response is complete.
    assert (await body(f"{running.url}/test/response/numbers/?n=3&end=error")).count(b"data:") == 3
    assert await ask(running, "/test/response/quick/") == {}
    log = running.log.read_text()
    assert "Traceback" not in log
    assert "without completing" not in log


@pytest.mark.parametrize("server", SERVERS)
async def test_last_events_arrive_before_the_error(sqlite_site: Site, server: str) -> None:
    running = sqlite_site.serve(server, OURS)
    read, ended = b"", None
    async with (
        httpx.AsyncClient(timeout=30) as client,
        client.stream("GET", f"{running.url}/test/response/failing/?end=error") as response,
    ):
        try:
            async for chunk in response.aiter_bytes():
                read += chunk
        except httpx.RemoteProtocolError as error:
            ended = error
    assert ended is not None
    assert read.endswith(b'"The stream failed on the server. Reconnect to go on."}\n\n')


@pytest.mark.parametrize(("server", "app"), OF_STREAMS)
async def test_refusal_in_band_ends_as_it_was_asked_to(sqlite_site: Site, server: str, app: str) -> None:
    running = sqlite_site.settings(MAX_STREAMS_PER_PROCESS=1).serve(server, app)
    url = f"{running.url}/events/news/?refuse=event"
    async with httpx.AsyncClient(timeout=30) as client, client.stream("GET", url):  # takes the slot
        assert re.search(rb"\nevent: stream-error\ndata: .*too-many-streams", await body(url))
        with pytest.raises(httpx.RemoteProtocolError):
            await body(f"{url}&end=error")
    log = running.log.read_text()
    assert "Traceback" not in log
    assert "without completing" not in log


@pytest.mark.parametrize(("server", "app"), OF_STREAMS)
async def test_fetch_client_comes_back_after_a_restart(sqlite_site: Site, server: str, app: str) -> None:
    running = sqlite_site.settings(MAX_STREAM_SECONDS=None).serve(server, app)
    coming = FetchClient(f"{running.url}/events/news/?end=error")
    leaving = FetchClient(f"{running.url}/events/news/")
    tasks = [asyncio.create_task(client.run()) for client in (coming, leaving)]
    async with asyncio.timeout(60):
        await asyncio.gather(coming.connected.wait(), leaving.connected.wait())
        await ask(running, "/test/response/publish/?data=before")
        while coming.data != ["before"]:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(running.stop, signal.SIGTERM)
        await tasks[1]
        running.start()
        await ask(running, "/test/response/publish/?data=after")
        while coming.data != ["before", "after"]:
            await asyncio.sleep(0.05)
    assert coming.errors >= 1
    assert leaving.data == ["before"], "this client should stop at a clean end"
    tasks[0].cancel()


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
async def test_stream_of_http_2_is_reset(sqlite_site: Site, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection cannot be closed, because other streams share it."""
    if server == "granian":
        monkeypatch.setattr("tests.support.sites.command", lambda *args: [*command(*args), "--http", "2"])
    running = sqlite_site.serve(server, OURS)
    assert (await body(f"{running.url}{NUMBERS}", http1=False, http2=True)).count(b"data:") > 1
    with pytest.raises(httpx.RemoteProtocolError):
        await body(f"{running.url}{NUMBERS}&end=error", http1=False, http2=True)
