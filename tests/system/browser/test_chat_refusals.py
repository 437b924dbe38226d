"""The demo site's chat in Chromium: failures of the upstream, and questions that the site refuses."""

import re

import pytest
from playwright.async_api import Browser, expect

from tests.support.sites import Server, Site
from tests.system.browser.chat_pages import ENDLESS, SHORT, ask, button, has_come, is_ready, note, open_chat, shows
from tests.system.browser.conftest import Tabs

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_upstream_failure_is_explained(own_chat_site: Site, tabs: Tabs) -> None:
    unreachable = {"base_url": "http://127.0.0.1:9/v1", "api_key": "secret", "models": ["m"]}
    upstream = {"BACKEND": "streams.relay.upstreams.OpenAICompatible", "OPTIONS": unreachable}
    page = await open_chat(tabs, own_chat_site.settings(UPSTREAMS={"default": upstream}).serve())
    await ask(page, SHORT)
    await expect(note(page)).to_have_text(re.compile(r"^The answer failed\. \w+"))
    await expect(page.locator("#announcement")).to_have_text(re.compile(r"^The answer failed\. \w+"))
    await expect(button(page, "Regenerate")).to_be_visible()
    await is_ready(page)


async def test_anonymous_user_is_sent_to_login(members_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, members_server)
    await ask(page, SHORT)
    await expect(note(page)).to_have_text("Not asked: that is for those who are logged in. Log in")
    link = note(page).get_by_role("link", name="Log in")
    await expect(link).to_have_attribute("href", "/admin/login/?next=/chat/")
    await tabs.log_in(members_server, "somebody")
    await page.reload()
    await expect(note(page)).to_contain_text("Not asked")
    await button(page, "Ask again").click()
    await shows(page, SHORT)


async def test_conversation_belongs_to_its_user(members_server: Server, tabs: Tabs) -> None:
    await tabs.log_in(members_server, "first")
    page = await open_chat(tabs, members_server)
    await ask(page, SHORT)
    await shows(page, SHORT)
    await tabs.log_in(members_server, "second")
    await page.reload()
    await expect(page.locator("#empty")).to_be_visible()
    await tabs.log_in(members_server, "first")
    await page.reload()
    await shows(page, SHORT)


async def test_excess_question_is_explained(members_server: Server, chromium: Browser, tabs: Tabs) -> None:
    await tabs.log_in(members_server, "curious")
    page = await open_chat(tabs, members_server)
    await ask(page, ENDLESS)
    await has_come(page)
    elsewhere = await chromium.new_context()
    other_tabs = Tabs(elsewhere)
    await other_tabs.log_in(members_server, "curious")
    other = await open_chat(other_tabs, members_server)
    await ask(other, SHORT)
    await expect(note(other)).to_have_text(re.compile(r"^Not asked: .+ Try again in \d+ seconds?\."))
    await button(page, "Stop").click()
    await expect(note(page)).to_have_text("Stopped.")
    await button(other, "Ask again").click()
    await shows(other, SHORT)
    await elsewhere.close()


async def test_changed_login_is_explained(members_server: Server, tabs: Tabs) -> None:
    await tabs.log_in(members_server, "changing")
    page = await open_chat(tabs, members_server)
    await tabs.context.clear_cookies(name="csrftoken")
    await ask(page, SHORT)
    await expect(note(page)).to_have_text("Not asked: your login has changed. Load the page again, and ask again.")
    await page.reload()
    await button(page, "Ask again").click()
    await shows(page, SHORT)
