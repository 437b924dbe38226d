"""The demo site's chat in Chromium: asking, stopping, regenerating, and the layout of the page."""

import pytest
from playwright.async_api import Browser, expect

from tests.support.sites import Server
from tests.system.browser.chat_pages import (
    ENDLESS,
    LONG,
    SHORT,
    answer,
    ask,
    button,
    has_come,
    is_ready,
    note,
    open_chat,
    shows,
)
from tests.system.browser.conftest import Tabs
from tests.system.browser.layout import fits_its_window
from tests.system.browser.test_board import PAYLOADS

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_answer_is_shown_as_it_comes(chat_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_server)
    await expect(page.locator("#empty")).to_be_visible()
    await is_ready(page)
    await ask(page, LONG)
    await has_come(page)
    assert not (await answer(page).text_content() or "").endswith("word24")
    await expect(page.locator("#state-word")).to_have_text("Answering …")
    await expect(page.locator("#announcement")).to_have_text("The answer begins.")
    await expect(page.get_by_label("Your question")).to_have_value("")
    await shows(page, LONG)
    await expect(page.locator("#announcement")).to_have_text("The answer is complete.")
    await expect(page.locator("#empty")).to_be_hidden()
    await expect(note(page)).to_be_hidden()
    # A screen reader announces the start and the end, but not each word.
    assert await answer(page).evaluate("place => place.closest('[aria-live], [role=log], [role=status]')") is None
    assert tabs.complaints == []


async def test_next_question_sends_the_conversation(chat_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_server)
    await ask(page, "one")
    await shows(page, "one")
    async with page.expect_request(lambda request: request.method == "POST") as asked:
        await ask(page, "two")
    sent = (await asked.value).post_data_json
    assert sent == {
        "messages": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "two"},
        ]
    }
    await shows(page, "two")
    await expect(page.locator(".question .text")).to_have_text(["one", "two"])


async def test_stopped_answer_keeps_its_text(chat_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_server)
    await ask(page, ENDLESS)
    await has_come(page)
    await button(page, "Stop").click()
    await expect(note(page)).to_have_text("Stopped.")
    await is_ready(page)
    text = await answer(page).text_content()
    assert text
    assert ENDLESS.startswith(text)
    await expect(button(page, "Stop")).to_be_hidden()
    await expect(page.get_by_label("Your question")).to_be_focused()
    await page.reload()
    assert await answer(page).text_content() == text
    assert tabs.complaints == []


async def test_regenerated_answer_replaces_the_old_one(chat_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_server)
    await ask(page, SHORT)
    await shows(page, SHORT)
    kept = await page.evaluate("Conversation.turns()[0].generation.id")
    await button(page, "Regenerate").click()
    await expect(page.locator("#state-word")).not_to_have_text("Ready")
    await shows(page, SHORT)
    await expect(page.locator(".turn")).to_have_count(1)
    assert await page.evaluate("Conversation.turns()[0].generation.id") != kept
    assert tabs.complaints == []


async def test_last_conversation_can_be_restored(chat_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_server)
    await ask(page, ENDLESS)
    await has_come(page)
    await button(page, "New conversation").click()
    await expect(page.locator(".turn")).to_have_count(0)
    await expect(page.locator("#empty")).to_be_visible()
    await is_ready(page)
    await button(page, "Restore the last conversation").click()
    await expect(note(page)).to_have_text("Stopped.")  # the page had closed its stream
    await has_come(page)


async def test_empty_or_early_question_is_explained(chat_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_server)
    field, error = page.get_by_label("Your question"), page.locator("#question-error")
    await ask(page, " ")
    await expect(error).to_have_text("Write a question first.")
    await expect(field).to_be_focused()
    await expect(field).to_have_attribute("aria-invalid", "true")
    await ask(page, ENDLESS)
    await expect(error).to_be_empty()
    await has_come(page)
    await field.fill("early")
    await field.press("Enter")
    await expect(error).to_have_text("Wait for the end of the answer, or stop it.")
    await expect(field).to_have_value("early")
    await expect(page.locator(".turn")).to_have_count(1)
    await button(page, "Stop").click()
    await is_ready(page)


async def test_everything_works_with_the_keyboard(chat_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_server)
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")  # skip the links
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("Your question")).to_be_focused()
    await page.keyboard.type("by")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type(f"hand {LONG}")
    await page.keyboard.press("Enter")
    await has_come(page)
    await expect(page.locator(".question .text")).to_have_text(f"by\nhand {LONG}", use_inner_text=True)
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await expect(button(page, "Stop")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(note(page)).to_have_text("Stopped.")
    await expect(page.get_by_label("Your question")).to_be_focused()
    assert tabs.complaints == []


async def test_words_stay_text(chat_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_server)
    hostile = "\n".join(PAYLOADS)
    await ask(page, hostile)
    await shows(page, hostile)
    await page.reload()
    await shows(page, hostile)
    assert await page.locator(".question .text").text_content() == hostile
    assert await page.locator(".turn .text *").count() == 0
    assert await page.evaluate("window.hacked") is None
    assert tabs.complaints == []


@pytest.mark.parametrize("width", [360, 1280])
async def test_page_fits_and_shows_the_end(chat_server: Server, chromium: Browser, width: int) -> None:
    context = await chromium.new_context(viewport={"width": width, "height": 800})
    page = await open_chat(Tabs(context), chat_server)
    await fits_its_window(page)
    text = "x" * 300 + "\n" * 40 + "the end"
    await ask(page, text)
    await shows(page, text)
    await fits_its_window(page)
    bottom = await answer(page).evaluate("place => place.getBoundingClientRect().bottom")
    assert 0 < bottom <= await page.locator("#ask").evaluate("form => form.getBoundingClientRect().top") + 1
    await context.close()
