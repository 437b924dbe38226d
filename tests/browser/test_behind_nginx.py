"""How many streams a browser opens through the nginx of the docs: six over HTTP/1.1, and any number over HTTP/2."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from playwright.async_api import Browser

from tests.browser.conftest import Tabs
from tests.services import missing, nginx
from tests.services.nginx import NginxServer
from tests.sites import Site

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
def proxy(sqlite_site: Site) -> Iterator[NginxServer]:
    if nginx.program() is None:
        missing("nginx", "nginx")
    proxy = NginxServer([sqlite_site.serve().port] * 4, secure=True).start()
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
