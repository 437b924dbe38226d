"""A page of another origin reads streams in Chromium: with EventSource and with fetch, with and without cookies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from tests.support.services import free_port
from tests.support.sites import Server, Site
from tests.system.browser.conftest import Tabs

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

PAGE = b"<!doctype html><link rel=icon href=data:,><title>Another site</title>"

# Return the events that an EventSource receives until it is live or is refused.
LISTEN = """([url, withCredentials]) => new Promise((resolve) => {
    const received = [], source = new EventSource(url, { withCredentials });
    const end = (state) => { source.close(); resolve([state, received]); };
    source.onmessage = (event) => { received.push(event.data); if (event.data === "last") end("live"); };
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) end("refused"); };
})"""

FETCH = """async ([url, credentials]) => {
    try {
        const headers = { "Last-Event-ID": "1", "Cache-Control": "no-cache" };
        const response = await fetch(url, { headers, credentials });
        const { value } = await response.body.getReader().read();
        return [response.status, new TextDecoder().decode(value)];
    } catch (error) {
        return [0, error.name];
    }
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def elsewhere() -> AsyncIterator[int]:
    """Yield the port of another site, which has two origins: one for 127.0.0.1 and one for localhost."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(PAGE) + PAGE)
        await writer.drain()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(answer, "127.0.0.1", port):
        yield port


async def open_page(tabs: Tabs, origin: str) -> Page:
    page = await tabs.context.new_page()
    await page.goto(origin)
    return page


async def start(site: Site, tabs: Tabs, origins: str) -> tuple[Server, str]:
    """Start a server, log the browser in, and return the server and the URL of the user's own channel.

    Both that channel and `news` have two messages.
    """
    server = site.serve(CORS_ALLOWED_ORIGINS=origins)
    await tabs.log_in(server, "reader")
    [(pk,)] = site.execute("SELECT id FROM auth_user WHERE username = 'reader'")
    for channel in ("news", f"user.{pk}"):
        for text in ("first", "last"):
            site.manage("publish", channel, text)
    return server, f"{server.url}/events/user.{pk}/?replay=2"


async def test_page_of_a_listed_origin_reads_streams_and_with_credentials_those_of_its_user(
    sqlite_site: Site, tabs: Tabs, elsewhere: int
) -> None:
    # A different port is a different origin but the same site, so the browser sends SameSite=Lax cookies.
    origin = f"http://127.0.0.1:{elsewhere}"
    server, private = await start(sqlite_site, tabs, origin)
    public = f"{server.url}/events/news/?replay=2"
    page = await open_page(tabs, origin)
    live: list[Any] = ["live", ["first", "last"]]
    assert await page.evaluate(LISTEN, [public, False]) == live
    assert await page.evaluate(LISTEN, [public, True]) == live
    assert await page.evaluate(LISTEN, [private, True]) == live
    assert await page.evaluate(LISTEN, [private, False]) == ["refused", []]

    for credentials in ("include", "omit"):  # because of Last-Event-ID, a preflight is sent first
        status, text = await page.evaluate(FETCH, [public, credentials])
        assert status == 200
        assert text.startswith("retry: ")
        assert "id: 1\n" in text
    assert (await page.evaluate(FETCH, [private, "include"]))[0] == 200
    status, text = await page.evaluate(FETCH, [private, "omit"])
    assert status == 403
    assert '"forbidden"' in text  # the page can read the reason


async def test_page_of_another_site_has_no_cookies_whatever_it_asks_for(
    sqlite_site: Site, tabs: Tabs, elsewhere: int
) -> None:
    origin = f"http://localhost:{elsewhere}"
    server, private = await start(sqlite_site, tabs, origin)
    page = await open_page(tabs, origin)
    assert await page.evaluate(LISTEN, [f"{server.url}/events/news/?replay=2", True]) == ["live", ["first", "last"]]
    assert await page.evaluate(LISTEN, [private, True]) == ["refused", []]
    assert (await page.evaluate(FETCH, [private, "include"]))[0] == 403


async def test_page_of_an_origin_that_is_not_listed_hears_nothing(
    sqlite_site: Site, tabs: Tabs, elsewhere: int
) -> None:
    server, private = await start(sqlite_site, tabs, "https://app.example")
    for origin in (f"http://127.0.0.1:{elsewhere}", f"http://localhost:{elsewhere}"):
        page = await open_page(tabs, origin)
        for url in (private, f"{server.url}/events/news/?replay=2"):
            for with_credentials in (True, False):
                assert await page.evaluate(LISTEN, [url, with_credentials]) == ["refused", []]
            for credentials in ("include", "omit"):
                assert await page.evaluate(FETCH, [url, credentials]) == [0, "TypeError"]
