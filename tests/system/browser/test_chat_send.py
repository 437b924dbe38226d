"""The chat page's form for /chat/send in Chromium, without and with an upstream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from project.chat import LINES
from tests.support.sites import Server, Site, copy_sqlite
from tests.system.browser.conftest import Tabs

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

ECHO = {"BACKEND": "streams.relay.upstreams.ScriptedUpstream", "OPTIONS": {"answer": "{question}", "seconds": 0.05}}


@pytest.fixture
def site(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Site]:
    copy_sqlite(migrated_sqlite, tmp_path / "db.sqlite3")
    site = Site(f"sqlite:///{tmp_path / 'db.sqlite3'}", tmp_path)
    yield site
    site.close()


async def send(tabs: Tabs, server: Server, words: str) -> Page:
    page = await tabs.open(f"{server.url}/chat/")
    await page.get_by_label("Message").fill(words)
    await page.get_by_role("button", name="Send", exact=True).click()
    return page


async def ends(page: Page, state: str) -> str:
    await expect(page.locator("#send")).to_have_attribute("data-state", state)
    return await page.locator("#sent").inner_text()


async def test_page_shows_plain_lines_without_upstream(site: Site, tabs: Tabs) -> None:
    page = await send(tabs, site.serve(CHAT_LINE_SECONDS="0.02"), "Hello")
    assert (await ends(page, "done")).splitlines() == list(LINES)
    assert tabs.complaints == []


async def test_form_covers_nothing(site: Site, tabs: Tabs) -> None:
    """The form for questions stays at the bottom of the window. This form must not, or it would cover text."""
    page = await send(tabs, site.serve(CHAT_LINE_SECONDS="0.02"), "Hello")
    await ends(page, "done")
    is_on_top = "line => { const box = line.getBoundingClientRect();"
    is_on_top += " return line.contains(document.elementFromPoint(box.x + 20, box.y + box.height / 2)); }"
    line = page.locator("pre", has_text="/chat/send")
    await line.scroll_into_view_if_needed()
    assert await line.evaluate(is_on_top)
    await page.locator("#send").scroll_into_view_if_needed()
    assert await page.locator("#send").evaluate("form => getComputedStyle(form).position") == "static"


async def test_page_shows_chunks_of_an_upstream(site: Site, tabs: Tabs) -> None:
    site.settings(UPSTREAMS={"default": ECHO}, RELAY_ACCESS="streams.relay.access.Everyone")
    server = site.serve()
    words = 'one <b>two</b> {"three": 4} é'
    page = await send(tabs, server, words)
    assert await ends(page, "done") == words
    assert tabs.complaints == []


async def test_page_of_a_user_sends_its_csrf_token(site: Site, tabs: Tabs) -> None:
    site.settings(UPSTREAMS={"default": ECHO}, RELAY_ACCESS="streams.relay.access.LoggedIn")
    server = site.serve()
    page = await send(tabs, server, "Hello")
    assert "Log in" in await ends(page, "failed")
    await tabs.log_in(server, "ann")
    page = await send(tabs, server, "Hello")
    assert await ends(page, "done") == "Hello"
