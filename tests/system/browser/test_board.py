"""The demo site's board in Chromium: publishing, the form, and the layout of the page."""

import json
import re

import pytest
from playwright.async_api import Browser, Route, expect

from tests.support.sites import Site
from tests.system.browser.board_pages import STAFF, is_live, open_board, shown, shows
from tests.system.browser.conftest import Tabs
from tests.system.browser.layout import fits_its_window
from tests.system.browser.payloads import PAYLOADS

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_message_appears_in_other_tabs(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    one = await open_board(tabs, server)
    two = await open_board(tabs, server)
    await expect(two.locator("#empty")).to_be_visible()
    await expect(two.locator("#listeners")).to_have_text("2 clients listen in this server process.")

    await one.get_by_label("Type").select_option("alert")
    await one.get_by_label("Data").fill("Trains run again.\n  From 14:00.")
    await one.get_by_role("button", name="Publish").click()

    await expect(one.locator("#published")).to_have_text("Published as event 1.")
    await expect(one.get_by_label("Data")).to_have_value("")
    for page in (one, two):
        event = page.locator("#events .event")
        await expect(event).to_have_count(1)
        assert await event.locator(".data").text_content() == "Trains run again.\n  From 14:00."
        await expect(event.locator(".id")).to_have_text("Event 1")
        await expect(event.locator(".type")).to_have_text("alert")
        await expect(event.locator("time")).to_have_text(re.compile(r"\d"))
        await expect(event.locator(".badge")).to_be_hidden()
        await expect(page.locator("#empty")).to_be_hidden()
        await expect(page.locator("#announcement")).to_have_text(re.compile("Event 1, alert: Trains run again."))
    assert tabs.complaints == []


async def test_text_typed_during_publish_is_kept(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_board(tabs, server)
    field = page.get_by_label("Data")

    async def type_during_publish(route: Route) -> None:
        response = await route.fetch()
        await field.fill("second")
        await route.fulfill(response=response)

    await page.route("**/publish/", type_during_publish)
    await field.fill("first")
    await page.get_by_role("button", name="Publish").click()
    await expect(page.locator("#published")).to_have_text("Published as event 1.")
    await expect(field).to_have_value("second")


async def test_focus_moved_during_publish_is_kept(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_board(tabs, server)
    drop = page.get_by_role("button", name="Drop the connection")

    async def move_focus(route: Route) -> None:
        response = await route.fetch()
        await drop.focus()
        await route.fulfill(response=response)

    await page.route("**/publish/", move_focus)
    await page.get_by_label("Data").fill("first")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#published")).to_have_text("Published as event 1.")
    await expect(drop).to_be_focused()


async def test_data_stays_text(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_board(tabs, server)
    for payload in PAYLOADS:
        await page.get_by_label("Data").fill(payload)
        await page.get_by_role("button", name="Publish").click()
        await expect(page.locator("#events .data").first).to_have_text(payload)
        await expect(page.locator("#published")).to_contain_text("Published")
    for _ in ("live", "as the server renders them"):
        assert await shown(page) == PAYLOADS[::-1]
        assert await page.locator("#events .data *").count() == 0
        assert await page.evaluate("window.hacked") is None
        await page.reload()
        await is_live(page)
    assert tabs.complaints == []


async def test_long_data_is_shortened(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_board(tabs, server, staff=False)
    server.json("/test/burst/?bytes=100000")
    await expect(page.locator("#events .data")).to_have_text(re.compile(r"x … and 98,\d\d\d characters more$"))
    await page.reload()
    await expect(page.locator("#events .data")).to_have_text(re.compile(r"x … \(100,?\d\d\d characters in total\)$"))


async def test_form_error_is_beside_its_field(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(MAX_MESSAGE_BYTES=50).serve()
    page = await open_board(tabs, server)
    data, error = page.get_by_label("Data"), page.locator("#id_data_error")
    for text, words in (("", "Enter the data of the event."), ("x" * 51, "Data is at most 50 bytes in UTF-8")):
        await data.fill(text)
        await page.get_by_role("button", name="Publish").click()
        await expect(error).to_contain_text(words)
        await expect(data).to_have_value(text)
        await expect(data).to_be_focused()
        await expect(data).to_have_attribute("aria-invalid", "true")
        await expect(data).to_have_attribute("aria-describedby", "id_data_error")
    await data.fill("x" * 50)
    await page.get_by_role("button", name="Publish").click()
    await shows(page, ["x" * 50])
    await expect(error).to_be_hidden()
    await expect(data).not_to_have_attribute("aria-invalid", "true")


async def test_reader_sees_remedy_and_no_form(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_board(tabs, server, staff=False)
    await expect(page.get_by_role("button", name="Publish")).to_have_count(0)
    await expect(page.get_by_role("link", name="Log in as staff")).to_have_attribute("href", "/admin/login/?next=/")
    await tabs.log_in(server, "reader")
    await page.reload()
    await expect(page.get_by_role("button", name="Publish")).to_have_count(0)
    await expect(page.locator("main")).to_contain_text("You are logged in as reader, who cannot publish here.")
    assert tabs.complaints == []


async def test_ended_session_keeps_the_text(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_board(tabs, server)
    await page.get_by_label("Data").fill("my text")
    await tabs.context.clear_cookies(name="sessionid")
    await page.get_by_role("button", name="Publish").click()
    await expect(page.locator("#published")).to_contain_text("Only staff who can add messages")
    await tabs.context.clear_cookies()
    await page.get_by_role("button", name="Publish").click()
    await expect(page.locator("#published")).to_contain_text("your login has changed")
    await expect(page.get_by_label("Data")).to_have_value("my text")
    assert await shown(page) == []


async def test_everything_works_with_the_keyboard(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_board(tabs, server)
    await page.keyboard.press("Tab")
    await expect(page.locator(".skip")).to_be_focused()
    await expect(page.locator(".skip")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("Type")).to_be_focused()
    await page.keyboard.type("correction")
    await page.keyboard.press("Tab")
    await page.keyboard.type("by hand")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Publish")).to_be_focused()
    await page.keyboard.press("Enter")
    await shows(page, ["by hand"])
    await expect(page.locator("#events .type")).to_have_text("correction")
    await expect(page.get_by_label("Data")).to_be_focused()
    await page.keyboard.type("by a short cut")
    await page.keyboard.press("Control+Enter")
    await shows(page, ["by a short cut", "by hand"])
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Drop the connection")).to_be_focused()
    await page.keyboard.press("Space")
    await expect(page.locator("#state")).to_have_attribute("data-state", "closed")
    await page.keyboard.press("Space")
    await is_live(page)
    assert tabs.complaints == []


async def test_form_works_without_javascript(sqlite_site: Site, chromium: Browser) -> None:
    server = sqlite_site.serve()
    context = await chromium.new_context(java_script_enabled=False)
    tabs = Tabs(context)
    await tabs.log_in(server, "editor", **STAFF)
    page = await tabs.open(server.url)
    await page.get_by_role("button", name="Publish").click()
    await expect(page.locator("#id_data_error")).to_have_text("Enter the data of the event.")
    await page.get_by_label("Data").fill("<b>one</b>\ntwo")
    await page.get_by_role("button", name="Publish").click()
    await expect(page.locator(".notice.success")).to_have_text("Published as event 1.")
    assert await shown(page) == ["<b>one</b>\ntwo"]
    assert page.url == f"{server.url}/"
    await context.close()


@pytest.mark.parametrize("path", ["/", "/random/"])
@pytest.mark.parametrize("width", [360, 1280])
async def test_page_fits_its_window(sqlite_site: Site, chromium: Browser, path: str, width: int) -> None:
    server = sqlite_site.serve()
    sqlite_site.manage("publish", "news", json.dumps("x" * 500))
    context = await chromium.new_context(viewport={"width": width, "height": 800})
    tabs = Tabs(context)
    await tabs.log_in(server, "editor", **STAFF)
    page = await tabs.open(f"{server.url}{path}")
    await is_live(page)
    await fits_its_window(page)
    await context.close()
