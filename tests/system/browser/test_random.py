"""The page in Chromium that shows a new number every two seconds."""

import re
import signal

import pytest
from playwright.async_api import expect

from tests.support.sites import Site
from tests.system.browser.conftest import Tabs

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_numbers_come_also_after_the_server_was_away(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await tabs.open(f"{server.url}/random/")
    await expect(page.locator("#number")).to_have_text(re.compile(r"^\d{1,2}$"))
    await expect(page.locator("#state")).to_have_text("Live")
    # Count the next numbers instead of comparing them, because two numbers can be equal.
    count = """count => new Promise((done) => {
        const note = () => --count || done(true);
        new MutationObserver(note).observe(document.getElementById("number"), { childList: true });
    })"""
    assert await page.evaluate(count, 2)
    assert tabs.complaints == []

    server.stop(signal.SIGKILL)
    await expect(page.locator("#state")).to_have_text("Reconnecting …")
    server.start()
    await expect(page.locator("#state")).to_have_text("Live")
    assert await page.evaluate(count, 1)
