"""A check that a page fits its window."""

from __future__ import annotations

from playwright.async_api import Page


async def fits_its_window(page: Page) -> None:
    """Fail if the page scrolls sideways."""
    for _ in range(50):  # the layout changes some time after the window or the content
        excess = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if excess <= 0:
            return
        await page.wait_for_timeout(100)
    raise AssertionError(f"{page.url} is {excess} pixels wider than its window: {page.viewport_size}")
