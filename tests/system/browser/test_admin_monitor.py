"""The live monitor in Chromium: its content and its controls."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, expect

from tests.support.sites import Site, finish
from tests.system.browser.conftest import Tabs
from tests.system.browser.layout import fits_its_window
from tests.system.browser.monitor_pages import (
    HOSTILE,
    MONITOR,
    is_live,
    open_monitor,
    publish_as,
    publish_each,
    publish_large,
    publish_numbers,
    shows_data,
    shows_ids,
)
from tests.system.browser.permissions import fits, log_in_with

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_chosen_channels_are_in_the_url(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    finish(sqlite_site.call(publish_each, *(f"news message {n}" for n in range(5)), "weather note rain"))
    await tabs.log_in(server, "boss", is_staff=True, is_superuser=True)
    page = await tabs.open(f"{server.url}/admin/")
    await page.locator("#content").get_by_role("link", name="Live monitor").click()
    await expect(page.locator(".streams")).to_contain_text("Choose channels to watch their events")
    await page.get_by_label("Channels").fill("news, weather")
    await page.get_by_label("with the newest messages").check()
    await page.get_by_label("Number of newest messages").fill("3")
    await page.get_by_role("button", name="Watch").click()
    await is_live(page)
    await shows_ids(page, [6, 5, 4])
    shared = await tabs.open(page.url)
    await shows_ids(shared, [6, 5, 4])
    await page.goto(f"{server.url}{MONITOR}?channel=news&start=after&id=3")
    await shows_ids(page, [5, 4])
    assert tabs.complaints == []


async def test_event_shows_channel_type_time_publisher(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news+weather")
    await expect(page.locator("#none")).to_be_visible()
    finish(
        sqlite_site.call(publish_each, 'news alert {"a":[1,{"b":1e400}],"c":"x"}', "weather message rain", "other x y")
    )
    finish(sqlite_site.call(publish_as, "boss"))
    await shows_ids(page, [4, 2, 1])
    await expect(page.locator("#events .channel")).to_have_text(["news", "weather", "news"])
    await expect(page.locator("#events .type")).to_have_text(["message", "message", "alert"])
    await expect(page.locator("#events .publisher").first).to_have_text("by boss")
    await expect(page.locator("#events time").first).to_have_text(re.compile(r"\d"))
    await shows_data(
        page, ["signed", "rain", '{\n  "a": [\n    1,\n    {\n      "b": 1e400\n    }\n  ],\n  "c": "x"\n}']
    )
    await expect(page.locator("#position")).to_have_text("Last event: 4.")
    await expect(page.locator("#count")).to_have_text("3 received, 3 shown")
    await expect(page.locator("#rate-text")).to_contain_text("total 3")
    await expect(page.locator("#rate rect")).not_to_have_count(0)
    await expect(page.locator("#announcement")).to_contain_text(re.compile("Event|New|new"))
    await expect(page.locator("#none")).to_be_hidden()
    link = page.locator("#events .id").first
    await expect(link).to_have_attribute("href", re.compile(r"/admin/streams/message/\d+/change/$"))
    assert tabs.complaints == []


async def test_events_are_complete_under_load(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=a+b")
    for _ in range(2):
        finish(sqlite_site.call(publish_numbers, "a", 60))
        finish(sqlite_site.call(publish_numbers, "b", 60))
    await expect(page.locator("#count")).to_have_text("240 received, 200 shown")
    await shows_ids(page, list(range(240, 40, -1)))
    channels = ["b"] * 60 + ["a"] * 60 + ["b"] * 60 + ["a"] * 20
    await expect(page.locator("#events .channel")).to_have_text(channels)
    assert tabs.complaints == []


@pytest.mark.parametrize("start", ["now", "after&id=0", "newest&n=20"])
async def test_new_type_is_shown_completely(sqlite_site: Site, tabs: Tabs, start: str) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, f"?channel=news+weather&start={start}")
    finish(
        sqlite_site.call(
            publish_each,
            "news message a",
            "news brand-new b",
            "weather message c",
            "news brand-new d",
            "news message e",
        )
    )
    await shows_ids(page, [5, 4, 3, 2, 1])
    await shows_data(page, ["e", "d", "c", "b", "a"])
    await expect(page.locator("#state-more")).to_contain_text("New event type: brand-new.")
    finish(sqlite_site.call(publish_each, "weather brand-new f", "weather another g", "news message h"))
    await shows_ids(page, [8, 7, 6, 5, 4, 3, 2, 1])
    await expect(page.locator("#count")).to_have_text("8 received, 8 shown")
    await is_live(page)
    assert tabs.complaints == []


@pytest.mark.parametrize("kind", ["error", "open", "__proto__", "7", "with spaces", "ünï"])
async def test_types_of_any_name_are_shown(sqlite_site: Site, tabs: Tabs, kind: str) -> None:
    server = sqlite_site.serve()
    sqlite_site.manage("publish", "news", "before", "--event", kind)
    page = await open_monitor(tabs, server, "?channel=news&start=after&id=0")
    sqlite_site.manage("publish", "news", "live", "--event", kind)
    await shows_data(page, ["live", "before"])
    await expect(page.locator("#events .type").first).to_have_text(kind)
    await is_live(page)
    assert tabs.complaints == []


async def test_what_others_have_written_stays_text(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news+weather")
    finish(sqlite_site.call(publish_each, *(f"news message {text}" for text in HOSTILE)))
    sqlite_site.manage("publish", "news", "abc\u202edef\u200b", "--event", "<img/src=x/onerror=window.hacked=1>\u202e")
    await expect(page.locator("#events .data")).to_have_text(["abcU+202EdefU+200B", *HOSTILE[::-1]])
    await expect(page.locator("#events .type").first).to_have_text("<img/src=x/onerror=window.hacked=1>U+202E")
    assert await page.locator("#events .data :not(.invisible)").count() == 0
    assert await page.evaluate("window.hacked") is None
    assert tabs.complaints == []


async def test_long_data_is_expanded_on_request(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news")
    server.json("/test/burst/?bytes=200000")
    data = page.locator("#events .data")
    await expect(data).to_have_text(re.compile(r"x …$"))
    assert len(await data.text_content() or "") < 2100
    await expect(page.locator("#events .more")).to_contain_text("more characters are not shown.")
    await page.get_by_role("button", name=re.compile("Show all 200,0")).click()
    await expect(data).to_be_focused()
    assert len(await data.text_content() or "") > 200_000
    await expect(page.locator("#events .more")).to_be_hidden()
    await fits_its_window(page)
    assert tabs.complaints == []


async def test_paused_events_are_counted_then_shown(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news")
    finish(sqlite_site.call(publish_each, "news message a"))
    await shows_data(page, ["a"])
    await page.get_by_role("button", name="Pause").click()
    finish(sqlite_site.call(publish_each, "news message b", "news message c"))
    await expect(page.locator("#waiting")).to_have_text("2 waiting")
    await shows_data(page, ["a"])
    await page.get_by_role("button", name="Resume").click()
    await shows_data(page, ["c", "b", "a"])
    await expect(page.locator("#waiting")).to_have_text("")

    await page.get_by_role("button", name="Pause").click()
    finish(sqlite_site.call(publish_numbers, "news", 1005))
    await expect(page.locator("#waiting")).to_have_text(
        "1000 waiting; 5 older ones are not shown, but are in the list of messages"
    )
    await page.get_by_role("button", name="Clear").click()
    await expect(page.locator("#events li")).to_have_count(0)
    await expect(page.locator("#waiting")).to_have_text("0 waiting")
    await page.get_by_role("button", name="Resume").click()
    finish(sqlite_site.call(publish_each, "news message after"))
    await shows_data(page, ["after"])
    assert tabs.complaints == []


async def test_waiting_data_is_bounded(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news")
    await page.get_by_role("button", name="Pause").click()
    finish(sqlite_site.call(publish_large, "40", "250000"))
    await expect(page.locator("#waiting")).to_have_text(
        "32 waiting; 8 older ones are not shown, but are in the list of messages"
    )
    await page.get_by_role("button", name="Resume").click()
    await shows_ids(page, list(range(40, 8, -1)))
    assert tabs.complaints == []


async def test_live_regions_and_tab_stops_are_few(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news")
    await expect(page.locator("#monitor [role=status] #waiting, #waiting[role], #waiting[aria-live]")).to_have_count(0)
    finish(sqlite_site.call(publish_each, "news message short", f"news message {'x' * 900}", "news message [1,2]"))
    await shows_ids(page, [3, 2, 1])
    assert await page.locator("#events .data").evaluate_all("all => all.map(one => one.tabIndex)") == [-1, 0, -1]
    assert tabs.complaints == []


async def test_filter_applies_to_old_and_new_events(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news+weather")
    finish(sqlite_site.call(publish_each, "news message Apple", "weather message pear", "news alert plum"))
    await shows_ids(page, [3, 2, 1])
    field = page.get_by_label("Show only events that contain")
    await field.fill("apple")
    await shows_data(page, ["Apple"])
    await expect(page.locator("#count")).to_have_text("3 received, 1 of 3 shown")
    finish(sqlite_site.call(publish_each, "news message banana", "weather message PINEAPPLE"))
    await shows_data(page, ["PINEAPPLE", "Apple"])
    await field.fill("WEATHER")
    await shows_ids(page, [5, 2])
    await field.fill("alert")
    await shows_ids(page, [3])
    await field.fill("nothing has that")
    await expect(page.locator("#none-match")).to_be_visible()
    await field.fill("apple")
    finish(sqlite_site.call(publish_numbers, "news", 300))
    await expect(page.locator("#count")).to_have_text("305 received, 2 of 200 shown")
    await shows_data(page, ["PINEAPPLE", "Apple"])
    await field.fill("")
    await expect(page.locator("#events li:visible")).to_have_count(200)
    assert tabs.complaints == []


async def test_monitor_needs_permission(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    await log_in_with(tabs, sqlite_site, server, "view_channelsettings", "view_node", "add_message")
    page = await tabs.open(f"{server.url}/admin/")
    await expect(page.get_by_role("link", name="Live monitor")).to_have_count(0)
    await page.goto(f"{server.url}{MONITOR}?channel=news")
    await expect(page.locator("body")).to_contain_text("403 Forbidden")
    await log_in_with(tabs, sqlite_site, server, "view_message")
    await page.goto(f"{server.url}{MONITOR}?channel=news")
    await is_live(page)


async def test_without_scripts_the_log_is_offered(sqlite_site: Site, chromium: Browser) -> None:
    server = sqlite_site.serve()
    context = await chromium.new_context(java_script_enabled=False)
    tabs = Tabs(context)
    await tabs.log_in(server, "boss", is_staff=True, is_superuser=True)
    page = await tabs.open(f"{server.url}{MONITOR}?channel=news")
    await expect(page.locator("noscript p")).to_contain_text("The live monitor requires JavaScript.")
    link = page.locator("noscript a")
    await expect(link).to_have_attribute("href", "/admin/streams/message/?channel=news")
    await expect(page.locator("#monitor")).to_be_hidden()
    await context.close()


async def test_keyboard_reaches_everything(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=weather")
    await page.get_by_label("Channels").focus()
    await page.keyboard.press("Control+A")
    await page.keyboard.type("news")
    await page.keyboard.press("Enter")
    await expect(page.locator("#watching")).to_contain_text("news")
    await is_live(page)
    await page.get_by_label("Show only events that contain").focus()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Pause")).to_be_focused()
    await page.keyboard.press("Space")
    finish(sqlite_site.call(publish_each, "news message a"))
    await expect(page.locator("#waiting")).to_have_text("1 waiting")
    await page.keyboard.press("Enter")
    await shows_data(page, ["a"])


async def test_page_fits_narrow_window_and_csp(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    await tabs.log_in(server, "boss", is_staff=True, is_superuser=True)
    sqlite_site.manage("publish", "x" * 99, "y" * 5000, "--event", "z" * 99)
    await fits(tabs, f"{server.url}{MONITOR}?channel={'x' * 99}&start=newest&n=5")
    assert tabs.complaints == []
