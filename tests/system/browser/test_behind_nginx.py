"""Chromium behind nginx with the configuration of the docs: the number of streams, and recovery after an outage."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from playwright.async_api import Browser

from tests.support.services import missing, nginx
from tests.support.services.nginx import NginxServer
from tests.support.sites import Server, Site
from tests.system.browser.conftest import Tabs
from tests.system.browser.test_other_origins import elsewhere as elsewhere

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

STREAMS = 20
MAX_CONNECTIONS = 6  # Chromium's limit per host over HTTP/1.1, for all tabs together

OPEN = """count => {
    window.received = [];
    for (let n = 0; n < count; n++) {
        new EventSource(`/events/news/?n=${n}`).onmessage = (event) => window.received.push([n, event.data]);
    }
}"""


@pytest.fixture
def server(sqlite_site: Site, elsewhere: int) -> Server:
    return sqlite_site.serve(CORS_ALLOWED_ORIGINS=f"http://127.0.0.1:{elsewhere}")


@pytest.fixture
def proxy(server: Server) -> Iterator[NginxServer]:
    if nginx.program() is None:
        missing("nginx", "nginx")
    proxy = NginxServer([server.port] * 4, secure=True).start()
    yield proxy
    proxy.remove()


@pytest.mark.parametrize(("scheme", "expected"), [("http", MAX_CONNECTIONS), ("https", STREAMS)])
async def test_streams_of_a_page_that_hear(
    chromium: Browser, proxy: NginxServer, sqlite_site: Site, scheme: str, expected: int
) -> None:
    context = await chromium.new_context(ignore_https_errors=True)
    port = proxy.secure_port if scheme == "https" else proxy.port
    page = await Tabs(context).open(f"{scheme}://127.0.0.1:{port}/test/process/")  # a page without streams
    await page.evaluate(OPEN, STREAMS)
    receivers = "word => window.received.filter(([_, data]) => data === word).map(([n]) => n)"
    while len(set(await page.evaluate(receivers, "early"))) < expected:  # until the expected number is open
        sqlite_site.manage("publish", "news", "early")
        await page.wait_for_timeout(300)
    sqlite_site.manage("publish", "news", "hello")
    async with asyncio.timeout(30):
        while len(await page.evaluate(receivers, "hello")) < expected:
            await page.wait_for_timeout(100)
    await page.wait_for_timeout(1000)  # time for unexpected events
    received = await page.evaluate(receivers, "hello")
    assert len(received) == len(set(received)) == expected
    await context.close()


LISTEN = """([url, withCredentials]) => {
    window.received = [];
    window.errors = [];
    const source = new EventSource(url, { withCredentials });
    source.onmessage = (event) => window.received.push(event.data);
    source.onerror = () => window.errors.push(source.readyState);
}"""
CLOSED = 2


async def test_pages_come_back_when_all_servers_were_away(
    tabs: Tabs, proxy: NginxServer, server: Server, sqlite_site: Site, elsewhere: int
) -> None:
    """A page of the site and a page of another origin receive every message once and in order."""
    site = f"http://127.0.0.1:{proxy.port}"
    same = await tabs.open(f"{site}/test/process/")
    other = await tabs.open(f"http://127.0.0.1:{elsewhere}")
    await same.evaluate(LISTEN, ["/events/news/", False])
    await other.evaluate(LISTEN, [f"{site}/events/news/", True])
    pages = (same, other)
    published: list[str] = []

    async def publish(count: int = 1) -> None:
        for _ in range(count):
            published.append(f"number {len(published)}")
            await asyncio.to_thread(sqlite_site.manage, "publish", "news", published[-1])

    async with asyncio.timeout(120):
        while not all([await page.evaluate("received.length") for page in pages]):  # until their streams are open
            await publish()
        await asyncio.to_thread(server.stop)
        await publish(3)
        # After three errors, at least two attempts to reconnect received an empty stream.
        while min([await page.evaluate("errors.length") for page in pages]) < 3:
            for page in pages:
                assert CLOSED not in await page.evaluate("errors")
            await asyncio.sleep(0.1)
    await asyncio.to_thread(server.start)
    await publish()
    for page in pages:
        await page.wait_for_function("last => received.includes(last)", arg=published[-1], timeout=60_000)
        await page.wait_for_timeout(1000)  # time for unexpected duplicates
        received = await page.evaluate("received")
        assert received == published[published.index(received[0]) :]
