"""A browser and the nginx of the docs: how many streams it opens, and that it comes back when all servers were away."""

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
SIX = 6  # connections to a host, of all its tabs together

OPEN = """count => {
    window.heard = [];
    for (let n = 0; n < count; n++) {
        new EventSource(`/events/news/?n=${n}`).onmessage = (event) => window.heard.push([n, event.data]);
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


@pytest.mark.parametrize(("scheme", "expected"), [("http", SIX), ("https", STREAMS)])
async def test_streams_of_a_page_that_hear(
    chromium: Browser, proxy: NginxServer, sqlite_site: Site, scheme: str, expected: int
) -> None:
    context = await chromium.new_context(ignore_https_errors=True)
    port = proxy.secure_port if scheme == "https" else proxy.port
    page = await Tabs(context).open(f"{scheme}://127.0.0.1:{port}/test/process/")  # no streams of its own
    await page.evaluate(OPEN, STREAMS)
    who = "word => window.heard.filter(([_, data]) => data === word).map(([n]) => n)"
    while len(set(await page.evaluate(who, "early"))) < expected:  # until all are open that can be
        sqlite_site.manage("publish", "news", "early")
        await page.wait_for_timeout(300)
    sqlite_site.manage("publish", "news", "hello")
    async with asyncio.timeout(30):
        while len(await page.evaluate(who, "hello")) < expected:
            await page.wait_for_timeout(100)
    await page.wait_for_timeout(1000)  # no more of them come
    heard = await page.evaluate(who, "hello")
    assert len(heard) == len(set(heard)) == expected
    await context.close()


LISTEN = """([url, withCredentials]) => {
    window.heard = [];
    window.errors = [];
    const source = new EventSource(url, { withCredentials });
    source.onmessage = (event) => window.heard.push(event.data);
    source.onerror = () => window.errors.push(source.readyState);
}"""
CLOSED = 2


async def test_pages_come_back_when_all_servers_were_away(
    tabs: Tabs, proxy: NginxServer, server: Server, sqlite_site: Site, elsewhere: int
) -> None:
    """A page of the site, and one of another origin: every message once, and in order."""
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
        while not all([await page.evaluate("heard.length") for page in pages]):  # until their streams are open
            await publish()
        await asyncio.to_thread(server.stop)
        await publish(3)
        while min([await page.evaluate("errors.length") for page in pages]) < 3:  # at least two empty streams
            for page in pages:
                assert CLOSED not in await page.evaluate("errors")
            await asyncio.sleep(0.1)
    await asyncio.to_thread(server.start)
    await publish()
    for page in pages:
        await page.wait_for_function("last => heard.includes(last)", arg=published[-1], timeout=60_000)
        await page.wait_for_timeout(1000)  # nothing comes twice
        heard = await page.evaluate("heard")
        assert heard == published[published.index(heard[0]) :]
