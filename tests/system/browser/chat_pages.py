"""Questions and steps on the demo site's chat page for the browser tests."""

from playwright.async_api import Locator, Page, expect

from tests.support.sites import Server
from tests.system.browser.conftest import Tabs
from tests.system.browser.wire import Wire

SHORT = "one two three"
LONG = " ".join(f"word{n}" for n in range(25))
ENDLESS = " ".join(f"word{n}" for n in range(1000))


async def open_chat(tabs: Tabs, server: Server | Wire) -> Page:
    return await tabs.open(f"{server.url}/chat/")


async def ask(page: Page, words: str) -> None:
    await page.get_by_label("Your question").fill(words)
    await page.get_by_role("button", name="Ask", exact=True).click()


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def answer(page: Page) -> Locator:
    """Return the text of the newest answer."""
    return page.locator(".turn").last.locator(".answer .text")


def note(page: Page) -> Locator:
    return page.locator(".turn").last.locator(".note")


async def has_come(page: Page, words: str = "word3") -> None:
    """Wait until the answer contains these words."""
    await expect(answer(page)).to_contain_text(words)


async def is_ready(page: Page) -> None:
    await expect(page.locator("#state-word")).to_have_text("Ready")


async def shows(page: Page, text: str) -> None:
    """Wait for the end of the answer, and check its text."""
    await is_ready(page)
    assert await answer(page).text_content() == text
