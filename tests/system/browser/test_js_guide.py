"""The pages in the guide to JavaScript, rendered as Django templates by a real site, in Chromium."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Page, expect

from tests.support.sites import Server, Site
from tests.system.browser.conftest import Tabs

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture
def server(sqlite_site: Site) -> Server:
    return sqlite_site.settings(PUBLIC_CHANNELS=["news", "score"]).serve()


async def publish(site: Site, channel: str, data: str) -> None:
    await asyncio.to_thread(site.manage, "publish", channel, data, "--json")


async def show(tabs: Tabs, server: Server, number: int) -> Page:
    return await tabs.open(f"{server.url}/test/browser/guide/{number}/")


async def test_first_page_shows_events(sqlite_site: Site, server: Server, tabs: Tabs) -> None:
    page = await show(tabs, server, 0)
    await asyncio.to_thread(sqlite_site.manage, "publish", "news", "<b>one</b>")
    await expect(page.locator("li")).to_have_text(["<b>one</b>"])
    await expect(page.locator("#state")).to_have_text("open")
    assert tabs.complaints == []


async def test_elements_show_events(sqlite_site: Site, server: Server, tabs: Tabs) -> None:
    page = await show(tabs, server, 1)
    await publish(sqlite_site, "news", '{"title": "one", "author": {"name": "Ada"}}')
    await publish(sqlite_site, "score", '{"home": 2}')
    await expect(page.locator("li")).to_have_text(["one by Ada"])
    await expect(page.locator("p")).to_have_text("Score: 2")
    assert tabs.complaints == []


async def test_import_map_finds_the_module(sqlite_site: Site, server: Server, tabs: Tabs) -> None:
    page = await show(tabs, server, 2)
    await publish(sqlite_site, "news", "5")
    await expect(page.locator("ul")).to_have_text("5")
    assert tabs.complaints == []
