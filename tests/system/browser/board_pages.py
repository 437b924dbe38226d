"""Steps on the demo site's board for the browser tests."""

from playwright.async_api import Page, expect

from tests.support.sites import Server
from tests.system.browser.conftest import Tabs

STAFF = {"is_staff": True, "is_superuser": True}


async def is_live(page: Page) -> None:
    await expect(page.locator("#state")).to_have_attribute("data-state", "live")


async def shown(page: Page) -> list[str]:
    """Return the data of the events on the board, newest first."""
    return await page.locator("#events .data").all_text_contents()


async def shows(page: Page, texts: list[str]) -> None:
    """Wait until the board shows exactly these texts, newest first."""
    await expect(page.locator("#events .data")).to_have_text(texts)


async def open_board(tabs: Tabs, server: Server, *, staff: bool = True) -> Page:
    if staff:
        await tabs.log_in(server, "editor", **STAFF)
    page = await tabs.open(server.url)
    await is_live(page)
    return page
