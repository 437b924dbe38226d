"""The admin's pages in Chromium keep emoji and joiners whole, and show other invisible characters as codes."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import expect

from tests.support.sites import Site
from tests.system.browser.conftest import Tabs

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

WHOLE = (
    "⚠\ufe0f ❤\ufe0f 👨\u200d👩\u200d👧 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f می\u200cخواهم"
)
WRITTEN = f"{WHOLE} a\u200bb\u200dc\u202e"
SHOWN = f"{WHOLE} aU+200BbU+200DcU+202E"


async def test_emoji_stay_whole_on_every_page(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(POLL_SECONDS=0.3).serve()
    await tabs.log_in(server, "editor", is_staff=True, is_superuser=True)
    admin = f"{server.url}/admin/streams"

    page = await tabs.open(f"{admin}/broadcast/add/")
    await page.get_by_label("Title").fill(WRITTEN)
    await page.get_by_label("Channels").fill("news")
    await page.get_by_label("Content", exact=True).fill(WRITTEN)
    await expect(page.locator("#event-data")).to_have_text(SHOWN)  # written by the script
    await expect(page.locator("#encoded")).to_contain_text(f"data: {SHOWN}")
    await page.get_by_role("button", name="Save draft").click()
    await expect(page.locator("h1")).to_have_text(SHOWN)
    await expect(page.locator("#event-data")).to_have_text(SHOWN)

    await page.goto(f"{admin}/broadcast/1/send/")
    await expect(page.locator("#confirm")).to_be_visible()
    await expect(page.locator("main")).to_contain_text(f"“{SHOWN}”")  # written by the server
    await expect(page.locator("#event-data")).to_have_text(SHOWN)

    await asyncio.to_thread(sqlite_site.manage, "publish", "news", WRITTEN)
    await page.goto(f"{admin}/message/")
    await expect(page.locator("td.start")).to_have_text(SHOWN)
    await page.get_by_role("link", name="1", exact=True).click()
    await expect(page.locator("pre.data").first).to_have_text(SHOWN)
    await page.goto(f"{admin}/channelsettings/news/change/")
    await expect(page.locator("td.long")).to_have_text(SHOWN)

    await page.goto(f"{admin}/monitor/?channel=news&start=newest&n=4")
    await expect(page.locator("#events .data")).to_have_text([SHOWN])
    await expect(page.locator("#events .data .invisible")).to_have_text(["U+200B", "U+200D", "U+202E"])
    assert tabs.complaints == []


async def test_emoji_at_the_cut_stay_whole(sqlite_site: Site, tabs: Tabs) -> None:
    """The list shows 200 characters of a message, the channel's page 300, and the monitor 2,000 UTF-16 units."""
    server = sqlite_site.serve()
    await tabs.log_in(server, "editor", is_staff=True, is_superuser=True)
    family = "👨\u200d👩\u200d👧"
    for n in (198, 298, 1998):
        await asyncio.to_thread(sqlite_site.manage, "publish", f"cut.{n}", "x" * n + family + "y" * 3000)
    page = await tabs.open(f"{server.url}/admin/streams/message/?channel=cut.198")
    await expect(page.locator("td.start")).to_have_text("x" * 198 + "…")
    await page.goto(f"{server.url}/admin/streams/channelsettings/cut.298/change/")
    await expect(page.locator("td.long")).to_have_text("x" * 298 + "…")
    await page.goto(f"{server.url}/admin/streams/monitor/?channel=cut.1998&start=newest&n=4")
    await expect(page.locator("#events .data")).to_have_text(["x" * 1998 + " …"])
    await page.get_by_role("button", name="Show all").click()
    await expect(page.locator("#events .data")).to_have_text(["x" * 1998 + family + "y" * 3000])
