"""How pages lie in their window."""

from __future__ import annotations

from playwright.async_api import Page


async def fits_its_window(page: Page) -> None:
    """Nothing makes the page scroll sideways."""
    for _ in range(50):  # a page is laid out anew some time after its window or its content has changed
        wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide <= 0:
            return
        await page.wait_for_timeout(100)
    raise AssertionError(f"{page.url} is {wide} pixels wider than its window: {page.viewport_size}")
