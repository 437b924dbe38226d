"""The admin's pages under a third-party theme, django-unfold: all pages load, are readable and work."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Browser, expect

from tests.support.clients import StreamClient
from tests.support.sites import Site, finish
from tests.system.browser.conftest import Tabs
from tests.system.browser.layout import fits_its_window

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

UNFOLD = "tests.support.settings_unfold"

FILL = """
from streams import publish
from streams.models import Broadcast, ChannelSettings
ChannelSettings.objects.create(channel="news", title="News of the day")
publish("news", {"text": "first"}, event="alert")
Broadcast.objects.create(title="Night works", channels=["news"], payload="No trains.")
"""

PAGES = {
    "broadcast/": None,
    "broadcast/add/": "New broadcast",
    "broadcast/1/change/": "Night works",
    "broadcast/1/send/": "Send this broadcast now?",
    "broadcast/1/schedule/": "Schedule this broadcast",
    "broadcast/1/history/": None,
    "broadcast/1/delete/": None,
    "monitor/": "Live monitor",
    "monitor/?channel=news": "Live monitor",
    "channelsettings/": "Channels",
    "channelsettings/news/change/": "news",
    "node/": "Processes",
    "message/": "Messages",
    "message/1/change/": "1",
    "message/1/send-again/": "Send",
    "message/diagnosis/": "Why",
    "message/diagnosis/?message=1": "Why",
    "message/prune/": "Delete expired messages",
}


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
async def test_each_page_is_there_and_fits(sqlite_site: Site, chromium: Browser, scheme: str, width: int) -> None:
    sqlite_site.env["DJANGO_SETTINGS_MODULE"] = UNFOLD
    await asyncio.to_thread(finish, sqlite_site.script(FILL))
    server = sqlite_site.serve(DEBUG="true")
    context = await chromium.new_context(color_scheme="dark" if scheme == "dark" else "light")
    tabs = Tabs(context)
    await tabs.log_in(server, "editor", is_staff=True, is_superuser=True)
    page = await tabs.open("about:blank")
    await page.set_viewport_size({"width": width, "height": 800})
    for path, heading in PAGES.items():
        response = await page.goto(f"{server.url}/admin/streams/{path}")
        assert response is not None
        assert response.status == 200, path
        await expect(page.locator("#main")).to_be_visible()
        if heading is not None:
            await expect(page.locator(".streams h1")).to_contain_text(heading)
            colours = await page.evaluate(
                "(s => [s.color, getComputedStyle(document.querySelector('#main')).backgroundColor])"
                "(getComputedStyle(document.querySelector('.streams h1')))"
            )
            assert contrast(*colours) >= 4.5, (path, colours)
        await fits_its_window(page)
    assert tabs.complaints == []
    await context.close()


def contrast(*colours: str) -> float:
    """Return the WCAG 2 contrast ratio of two colours from computed styles."""
    bright, dim = sorted(map(luminance, colours), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(colour: str) -> float:
    """Return the relative luminance. For oklch(…), it is the cube of the lightness, which is nearly exact for greys."""
    numbers = [float(number.rstrip("%")) for number in colour[colour.index("(") + 1 : -1].replace(",", " ").split()[:3]]
    if colour.startswith("oklch"):
        return numbers[0] ** 3
    linear = [n / 12.92 if (n := v / 255) <= 0.04045 else ((n + 0.055) / 1.055) ** 2.4 for v in numbers]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


async def test_composed_tested_and_sent(sqlite_site: Site, tabs: Tabs) -> None:
    sqlite_site.env["DJANGO_SETTINGS_MODULE"] = UNFOLD
    server = sqlite_site.serve(DEBUG="true")
    client = await StreamClient(server.port, "/events/news/").connect()
    await client.read_control(1)
    await tabs.log_in(server, "editor", is_staff=True, is_superuser=True)
    page = await tabs.open(f"{server.url}/admin/streams/broadcast/")
    await page.locator("a[href$='/add/']").first.click()
    await page.wait_for_load_state()
    await page.get_by_label("Title").fill("Night works")
    await page.get_by_label("Channels").fill("news")
    await page.keyboard.press("Enter")
    await page.get_by_label("Content", exact=True).fill("No trains.")
    await page.get_by_role("button", name="Send a test message to me").click()
    await expect(page.locator("#test-state")).to_contain_text("Received event")
    await page.get_by_role("button", name="Send now…").click()
    await page.get_by_role("button", name="Send to 1 connection now").click()
    await expect(page.locator("#reached")).to_have_text("Connections reached: 1.")
    await client.read_until(1)
    assert [event.data for event in client.events] == ["No trains."]
    await client.close()
    assert tabs.complaints == []
