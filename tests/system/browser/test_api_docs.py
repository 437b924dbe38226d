"""The API's Swagger UI page in Chromium, under a strict Content-Security-Policy."""

from __future__ import annotations

import pytest
from playwright.async_api import Request, expect

from tests.support.sites import Site
from tests.system.browser.conftest import Tabs

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_page_works_under_its_policy(sqlite_site: Site, tabs: Tabs) -> None:
    """The page works on a phone, in dark mode and by keyboard. All files come from the site; the policy blocks none."""
    server = sqlite_site.serve()
    await tabs.log_in(server, "ann", is_staff=True, is_superuser=True)
    urls: list[str] = []

    def note(request: Request) -> None:
        urls.append(request.url)

    tabs.context.on("request", note)
    page = await tabs.open("about:blank")
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.emulate_media(color_scheme="dark")
    await page.goto(f"{server.url}/api/docs/")
    publish = page.locator("#operations-Publishing-publish")
    await expect(page.locator(".opblock")).to_have_count(11)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await expect(page.locator("html")).to_have_class("dark-mode")

    for _ in range(20):
        await page.keyboard.press("Tab")
        if await publish.locator(".opblock-summary-control").first.evaluate("node => node === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    await publish.get_by_role("button", name="Try it out").press("Enter")
    await publish.get_by_role("button", name="Execute").press("Enter")
    await expect(publish.locator(".live-responses-table .response .response-col_status")).to_contain_text("201")
    assert {url.startswith((f"{server.url}/", "data:", "about:")) for url in urls} == {True}
    assert tabs.complaints == []
