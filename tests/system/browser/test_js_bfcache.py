"""streams.js and the back/forward cache of Chromium."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import async_playwright

from tests.system.browser.browsers import launch_with_back_forward_cache
from tests.system.browser.channel import Channel
from tests.system.browser.raw_streams import PAGE, RawSite
from tests.system.browser.stream_log import events_of, open_stream, until

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("shared", [False, True])
async def test_page_from_the_cache_reads_on(raw_site: RawSite, shared: bool) -> None:
    channel = Channel(raw_site)
    raw_site.files["/next/"] = PAGE
    async with async_playwright() as playwright:
        browser = await launch_with_back_forward_cache(playwright)
        page = await (await browser.new_context()).new_page()
        await page.goto(raw_site.url)
        await open_stream(page, "/events/?last_event_id=0", shared=shared)
        await channel.news(1, "one")
        await until(page, "one.log.some(([type]) => type === 'message')")
        await page.evaluate("addEventListener('pageshow', (event) => (window.persisted = event.persisted))")
        await page.goto(f"{raw_site.url}/next/")
        async with asyncio.timeout(15):
            while raw_site.open:
                await asyncio.sleep(0.01)
        await channel.news(2, "two")
        await page.go_back(wait_until="commit")  # a page from the cache does not load
        await until(page, "window.one && one.log.filter(([type]) => type === 'message').length === 2")
        assert await page.evaluate("persisted") is True
        assert [event[2] for event in await events_of(page)] == ["1", "2"]
        assert raw_site.requests[-1].query == {"last_event_id": "1"}
        await browser.close()
