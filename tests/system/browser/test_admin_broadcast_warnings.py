"""The warnings on the broadcast pages in Chromium: while writing, while confirming, and by keyboard."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Browser, expect

from tests.support.clients import leave_all
from tests.support.sites import Site
from tests.system.browser.broadcast_pages import STAFF, listen, open_desk, write
from tests.system.browser.conftest import Tabs
from tests.system.browser.layout import fits_its_window

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

CLOSED = "Visitors who are not logged in cannot read “{}”. Readers: staff with permission to view messages."


async def test_warnings_follow_the_channels(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(POLL_SECONDS=0.3, PUBLIC_CHANNELS=["news"]).serve()
    await asyncio.to_thread(sqlite_site.manage, "publish", "weather", "x")
    page = await open_desk(tabs, server)
    notices = page.locator("#warnings .notice")
    await write(page, channels="news")
    await expect(page.locator("#audience")).to_contain_text(
        "No client is connected right now, so the message will not be received immediately."
    )
    await expect(notices).to_have_count(0)
    channels = page.get_by_label("Channels")
    await channels.press_sequentially("wether")
    async with page.expect_response(re.compile("audience.*wether")):
        pass
    await expect(notices).to_have_count(0)  # the name is not complete yet
    await page.keyboard.press("Enter")
    await expect(notices).to_have_text(
        [CLOSED.format("wether"), re.compile("“wether” seems to be new.*Use “weather”$", re.DOTALL)]
    )
    await expect(channels).to_have_accessible_description(re.compile("“wether” seems to be new"))
    await page.keyboard.press("Tab")  # from the input to the button
    await expect(page.get_by_role("button", name="Use “weather”")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator(".chips li")).to_have_text([re.compile("news"), re.compile("weather")])
    await expect(notices).to_have_text([CLOSED.format("weather")])
    await expect(channels).to_be_focused()
    await page.get_by_role("button", name="Remove weather").click()
    await expect(notices).to_have_count(0)
    assert tabs.complaints == []


async def test_confirmation_counts_on(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(POLL_SECONDS=0.3, PUBLIC_CHANNELS=["news"]).serve()
    page = await open_desk(tabs, server)
    await write(page, channels="news")
    await page.get_by_role("button", name="Send now…").click()
    no_connections = page.locator("#no-connections")
    await expect(no_connections).to_be_visible()
    send = page.locator("#send-to")
    await expect(send).to_have_accessible_description(re.compile("No client is connected right now"))
    [client] = await listen(server, "news")
    await expect(no_connections).to_be_hidden()
    await expect(send).to_have_text("Send to 1 connection now")
    await client.close()
    await expect(no_connections).to_be_visible()
    await send.click()
    await expect(page.locator(".messagelist")).to_have_text("Sent. 0 connections were open.")
    await expect(page.locator("main")).to_contain_text("does not show whether people have seen the message")
    assert tabs.complaints == []
    leave_all()


async def test_warnings_need_no_script(sqlite_site: Site, chromium: Browser) -> None:
    server = sqlite_site.settings(PUBLIC_CHANNELS=["news"]).serve()
    context = await chromium.new_context(java_script_enabled=False)
    tabs = Tabs(context)
    await tabs.log_in(server, "editor", **STAFF)
    page = await tabs.open(f"{server.url}/admin/streams/broadcast/add/")
    await page.get_by_label("Title").fill("Night works")
    await page.get_by_label("Channels").fill("nwes")
    await page.get_by_label("Content", exact=True).fill("No trains.")
    await page.get_by_role("button", name="Save draft").click()
    for path in ("change", "schedule", "send"):
        await page.goto(f"{server.url}/admin/streams/broadcast/1/{path}/")
        await expect(page.locator("#warnings")).to_contain_text(CLOSED.format("nwes"))
        await expect(page.locator("#warnings")).to_contain_text("The most similar known channel is “news”.")
    await expect(page.locator("#no-connections")).to_be_visible()
    await page.get_by_role("button", name="Send, although no client is connected").click()
    await expect(page.locator(".messagelist")).to_have_text("Sent. 0 connections were open.")
    await context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_warnings_fit_narrow_windows(sqlite_site: Site, tabs: Tabs, scheme: str) -> None:
    server = sqlite_site.settings(PUBLIC_CHANNELS=["news"]).serve()
    page = await open_desk(tabs, server)
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.set_viewport_size({"width": 360, "height": 740})
    await write(page, channels=f"nwes a.{'very.' * 15}long.name")
    await expect(page.locator("#warnings .notice")).to_have_count(4)
    await fits_its_window(page)
    assert await page.locator("#warnings .notice").first.evaluate(CONTRAST) >= 4.5
    await page.get_by_role("button", name="Send now…").click()
    await expect(page.locator("#warnings .notice")).to_have_count(4)
    await fits_its_window(page)
    assert await page.locator("#no-connections").evaluate(CONTRAST) >= 4.5


# The WCAG contrast ratio of an element's text and its background.
CONTRAST = """element => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
    const layers = [];
    for (let each = element; each; each = each.parentElement) layers.unshift(getComputedStyle(each).backgroundColor);
    const light = (colours) => {
        canvas.fillStyle = "#fff";
        canvas.fillRect(0, 0, 1, 1);
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
            const part = value / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const [low, high] = [light(layers), light([...layers, getComputedStyle(element).color])].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
}"""
