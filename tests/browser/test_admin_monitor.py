"""The live monitor, in Chromium: what staff see of channels as events come."""

from __future__ import annotations

import asyncio
import re
import signal
import time

import pytest
from playwright.async_api import Browser, Page, Route, expect

from streams import NewMessage, publish, publish_many
from tests.browser.conftest import Tabs
from tests.browser.layout import fits_its_window
from tests.browser.permissions import fits, log_in_with
from tests.sites import Server, Site, finish

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

MONITOR = "/admin/streams/monitor/"
TYPES = re.compile(r"/monitor/types/")
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "</pre></li></ol></template><img src=x onerror='window.hacked = 1'>",
    "{{ constructor.constructor('window.hacked=1')() }} {% load x %} ${window.hacked=1}",
    '"><svg onload=window.hacked=1> \'"&lt;',
]


def publish_each(*lines: str) -> None:
    """Publish `channel type data`, one after the other."""
    for line in lines:
        channel, event, data = line.split(" ", 2)
        publish(channel, data, event=event)


def publish_as(name: str) -> None:
    from django.contrib.auth.models import User

    publish("news", "signed", published_by=User.objects.get(username=name))


def publish_numbers(channel: str, count: str) -> None:
    publish_many([NewMessage(channel, str(n)) for n in range(int(count))])


def publish_large(count: str, size: str) -> None:
    for _ in range(int(count)):
        publish("news", "x" * int(size))


async def hold_types(page: Page) -> tuple[asyncio.Event, asyncio.Event]:
    """Let no answer about types through before the second event is set; the first is set once one is asked for."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        asked.set()
        await release.wait()
        await route.continue_()

    await page.route(TYPES, hold)
    return asked, release


async def open_monitor(tabs: Tabs, server: Server, query: str) -> Page:
    await tabs.log_in(server, "boss", is_staff=True, is_superuser=True)
    page = await tabs.open(f"{server.url}{MONITOR}{query}")
    await is_live(page)
    return page


async def is_live(page: Page) -> None:
    await expect(page.locator("#state")).to_have_text("Live")


async def shows_ids(page: Page, ids: list[int]) -> None:
    """Wait until exactly these events are shown, newest first."""
    await expect(page.locator("#events .id:visible")).to_have_text([f"Event {number}" for number in ids])


async def shows_data(page: Page, texts: list[str]) -> None:
    await expect(page.locator("#events .data:visible")).to_have_text(texts)


# --- What is shown ----------------------------------------------------------------------------------------------------


async def test_channels_are_chosen_and_the_address_can_be_shared(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    finish(sqlite_site.call(publish_each, *(f"news message {n}" for n in range(5)), "weather note rain"))
    await tabs.log_in(server, "boss", is_staff=True, is_superuser=True)
    page = await tabs.open(f"{server.url}/admin/")
    await page.locator("#content").get_by_role("link", name="Live monitor").click()
    await expect(page.locator(".streams")).to_contain_text("Choose channels to see their events")
    await page.get_by_label("Channels").fill("news, weather")
    await page.get_by_label("with the newest messages").check()
    await page.get_by_label("How many messages to begin with").fill("3")
    await page.get_by_role("button", name="Watch").click()
    await is_live(page)
    await shows_ids(page, [6, 5, 4])
    shared = await tabs.open(page.url)
    await shows_ids(shared, [6, 5, 4])
    await page.goto(f"{server.url}{MONITOR}?channel=news&start=after&id=3")
    await shows_ids(page, [5, 4])
    assert tabs.complaints == []


async def test_each_event_is_shown_with_its_channel_type_time_and_publisher(sqlite_site: Site, tabs: Tabs) -> None:
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
    await expect(page.locator("#stands")).to_have_text("Stands at event 4.")
    await expect(page.locator("#count")).to_have_text("3 received, 3 shown")
    await expect(page.locator("#rate-text")).to_contain_text("3 in all")
    await expect(page.locator("#rate rect")).not_to_have_count(0)
    await expect(page.locator("#announcement")).to_contain_text(re.compile("Event|New|new"))
    await expect(page.locator("#none")).to_be_hidden()
    link = page.locator("#events .id").first
    await expect(link).to_have_attribute("href", re.compile(r"/admin/streams/message/\d+/change/$"))
    assert tabs.complaints == []


async def test_what_is_published_in_time_order_on_both_channels_is_complete_under_load(
    sqlite_site: Site, tabs: Tabs
) -> None:
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
async def test_type_that_was_unknown_when_the_page_opened_is_shown_completely_and_once(
    sqlite_site: Site, tabs: Tabs, start: str
) -> None:
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
    await expect(page.locator("#state-more")).to_contain_text("A new type of event: brand-new.")
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


async def test_long_data_is_cut_until_all_is_asked_for(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news")
    server.json("/test/burst/?bytes=200000")
    data = page.locator("#events .data")
    await expect(data).to_have_text(re.compile(r"x …$"))
    assert len(await data.text_content() or "") < 2100
    await expect(page.locator("#events .more")).to_contain_text("characters more are not shown.")
    await page.get_by_role("button", name=re.compile("Show all 200,0")).click()
    await expect(data).to_be_focused()
    assert len(await data.text_content() or "") > 200_000
    await expect(page.locator("#events .more")).to_be_hidden()
    await fits_its_window(page)
    assert tabs.complaints == []


# --- Pausing, clearing, filtering -------------------------------------------------------------------------------------


async def test_what_comes_during_a_pause_is_counted_and_shown_afterwards(sqlite_site: Site, tabs: Tabs) -> None:
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
    await expect(page.locator("#waiting")).to_have_text("1000 waiting; 5 older ones were let go, and are in the log")
    await page.get_by_role("button", name="Clear").click()
    await expect(page.locator("#events li")).to_have_count(0)
    await expect(page.locator("#waiting")).to_have_text("0 waiting")
    await page.get_by_role("button", name="Resume").click()
    finish(sqlite_site.call(publish_each, "news message after"))
    await shows_data(page, ["after"])
    assert tabs.complaints == []


async def test_much_data_that_waits_is_bounded_as_well(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news")
    await page.get_by_role("button", name="Pause").click()
    finish(sqlite_site.call(publish_large, "40", "250000"))
    await expect(page.locator("#waiting")).to_have_text("32 waiting; 8 older ones were let go, and are in the log")
    await page.get_by_role("button", name="Resume").click()
    await shows_ids(page, list(range(40, 8, -1)))
    assert tabs.complaints == []


async def test_counting_up_is_not_spoken_and_only_rows_that_scroll_are_stops_of_the_tab_key(
    sqlite_site: Site, tabs: Tabs
) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news")
    await expect(page.locator("#monitor [role=status] #waiting, #waiting[role], #waiting[aria-live]")).to_have_count(0)
    finish(sqlite_site.call(publish_each, "news message short", f"news message {'x' * 900}", "news message [1,2]"))
    await shows_ids(page, [3, 2, 1])
    assert await page.locator("#events .data").evaluate_all("all => all.map(one => one.tabIndex)") == [-1, 0, -1]
    assert tabs.complaints == []


async def test_filter_holds_for_what_is_shown_and_for_what_comes(sqlite_site: Site, tabs: Tabs) -> None:
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


# --- The connection ---------------------------------------------------------------------------------------------------


async def test_gap_by_pruning_is_a_row_of_its_own(sqlite_site: Site, tabs: Tabs) -> None:
    sqlite_site.settings(RETENTION_MESSAGES_PER_CHANNEL=2, PRUNE_SECONDS=None)
    finish(sqlite_site.call(publish_each, *(f"news message {n}" for n in range(1, 6))))
    sqlite_site.manage("prune_messages")
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news&start=after&id=1")
    notice = page.locator("#events [data-kind=stream-reset]")
    await expect(notice).to_contain_text(
        "Gap: events may have been missed Events after 1 were deleted from the log before they could be sent. "
        "The oldest that is left is 4, the newest event of the log is 5."
    )
    await shows_ids(page, [5, 4])
    await expect(page.locator("#events > li").last).to_have_attribute("data-kind", "stream-reset")
    await page.get_by_label("Show only events that contain").fill("nothing has that")
    await expect(notice).to_be_visible()
    assert tabs.complaints == []


async def test_id_that_the_log_does_not_know_is_told_and_what_it_has_follows(sqlite_site: Site, tabs: Tabs) -> None:
    finish(sqlite_site.call(publish_each, "news message a", "news rare b", "news message c"))
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news&start=after&id=99")
    await expect(page.locator("#events [data-kind=stream-reset]")).to_contain_text("The log does not know the id 99")
    await shows_data(page, ["c", "b", "a"])


async def test_log_that_is_replaced_meanwhile_is_told_and_read_from_its_beginning(
    sqlite_site: Site, tabs: Tabs
) -> None:
    server = sqlite_site.settings(RETRY_MILLISECONDS=200).serve()
    finish(sqlite_site.call(publish_each, *(f"news message old{n}" for n in range(3))))
    page = await open_monitor(tabs, server, "?channel=news&start=after&id=0")
    await shows_ids(page, [3, 2, 1])
    server.stop(signal.SIGKILL)
    sqlite_site.execute("DELETE FROM streams_message")
    sqlite_site.execute("DELETE FROM streams_loghead")
    finish(sqlite_site.call(publish_each, "news message new", "news new-type newer"))
    server.start()
    await shows_data(page, ["newer", "new", "old2", "old1", "old0"])
    kinds = page.locator("#events > li")
    await expect(kinds.nth(2)).to_have_attribute("data-kind", "stream-reset")


async def test_monitor_outlives_a_killed_server_and_shows_each_event_once(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(RETRY_MILLISECONDS=200).serve()
    page = await open_monitor(tabs, server, "?channel=news+weather")
    finish(sqlite_site.call(publish_each, "news open a", "weather error b"))
    await shows_data(page, ["b", "a"])
    server.stop(signal.SIGKILL)
    await expect(page.locator("#state")).to_have_text("Reconnecting …")
    await expect(page.locator("#state-more")).to_contain_text("The connection was lost.")
    finish(sqlite_site.call(publish_each, "news message c", "weather unheard-of d", "news message e"))
    server.start()
    await is_live(page)
    await shows_data(page, ["e", "d", "c", "b", "a"])
    finish(sqlite_site.call(publish_each, "weather message f"))
    await shows_data(page, ["f", "e", "d", "c", "b", "a"])
    await expect(page.locator("#events .channel")).to_have_text(
        ["weather", "news", "weather", "news", "weather", "news"]
    )


async def test_stream_that_is_not_given_is_told_and_asked_for_again(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(MAX_STREAMS_PER_PROCESS=1).serve()
    one = await open_monitor(tabs, server, "?channel=news")
    two = await tabs.open(f"{server.url}{MONITOR}?channel=news")
    await expect(two.locator("#state")).to_have_text("Closed")
    await expect(two.locator("#state-more")).to_contain_text("The stream was refused, or is not served here")
    finish(sqlite_site.call(publish_each, "news message meanwhile"))
    await one.close()
    await is_live(two)
    await shows_data(two, ["meanwhile"])


async def test_stream_that_the_policy_refuses_is_not_opened_and_the_policy_is_quoted(
    sqlite_site: Site, tabs: Tabs
) -> None:
    server = sqlite_site.settings(POLICY="streams.policies.BasePolicy").serve()
    await tabs.log_in(server, "boss", is_staff=True, is_superuser=True)
    asked: list[str] = []
    tabs.context.on("request", lambda request: asked.append(request.url))
    page = await tabs.open(f"{server.url}{MONITOR}?channel=news")
    await expect(page.locator("[role=alert]")).to_contain_text("The site’s policy says: You may not read news.")
    await expect(page.locator(".state")).to_have_text("Closed")
    await page.wait_for_timeout(500)
    assert [url for url in asked if "/events/" in url] == []
    assert tabs.complaints == []


async def test_page_that_is_left_closes_its_stream_and_goes_on_when_it_is_back(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news")
    finish(sqlite_site.call(publish_each, "news message a"))
    await shows_data(page, ["a"])
    await page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    for _ in range(100):
        if not server.json("/test/process/")["streams"]:
            break
        await page.wait_for_timeout(100)
    assert server.json("/test/process/")["streams"] == 0
    finish(sqlite_site.call(publish_each, "news message b"))
    await page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    await shows_data(page, ["b", "a"])
    assert tabs.complaints == []


async def test_who_was_logged_out_meanwhile_is_told(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news")
    await tabs.context.clear_cookies()
    await expect(page.locator("#state-more")).to_contain_text("Load the page again; you may have been logged out.")


async def test_type_that_is_found_after_the_page_was_left_is_shown_when_it_is_back(
    sqlite_site: Site, tabs: Tabs
) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news")
    asked, release = await hold_types(page)
    finish(sqlite_site.call(publish_each, "news message a", "news brand-new b", "news message c"))
    await shows_data(page, ["c", "a"])
    await asyncio.wait_for(asked.wait(), 60)
    async with page.expect_response(TYPES):
        await page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
        release.set()
    await page.wait_for_timeout(300)
    await page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    await shows_data(page, ["c", "b", "a"])
    assert tabs.complaints == []


async def test_type_that_is_found_late_does_not_bring_the_whole_log_once_more(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    finish(sqlite_site.call(publish_each, "news rare first"))
    finish(sqlite_site.call(publish_numbers, "news", "1500"))
    await tabs.log_in(server, "boss", is_staff=True, is_superuser=True)
    page = await tabs.open("about:blank")
    _, release = await hold_types(page)
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if "/events/?channel" in request.url else None)
    await page.goto(f"{server.url}{MONITOR}?channel=news&start=after&id=0")
    await expect(page.locator("#count")).to_have_text("1500 received, 200 shown")
    finish(sqlite_site.call(publish_each, "news rare last", "news message end"))
    await expect(page.locator("#count")).to_have_text("1501 received, 200 shown")
    release.set()
    await expect(page.locator("#events [data-kind=older]")).to_contain_text(
        "Older events are in the log A new type of event was found late: rare. Its events from 1 through 503 may not"
    )
    await expect(page.locator("#events .data:visible").nth(1)).to_have_text("last")
    await expect(page.locator("#events .data:visible").nth(2)).to_have_text("1499")
    await expect(page.locator("#count")).to_have_text("1502 received, 200 shown")
    assert [url.partition("last_event_id=")[2] for url in streams] == ["0", "503"]
    finish(sqlite_site.call(publish_each, "news rare live"))
    await expect(page.locator("#events > li").first).to_contain_text("live")
    assert tabs.complaints == []


async def test_server_that_refuses_to_tell_types_is_left_in_peace(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news")
    asked: list[str] = []

    async def refuse(route: Route) -> None:
        asked.append(route.request.url)
        await route.fulfill(status=403, json={"errors": ["Not for you."]})

    await page.route(TYPES, refuse)
    await expect(page.locator("#state-more")).to_contain_text("Not for you.")
    for _ in range(3):
        await asyncio.to_thread(server.json, "/test/burst/?n=7000&bytes=1")
    await expect(page.locator("#count")).to_have_text("21000 received, 200 shown")
    before, began = len(asked), time.monotonic()
    for n in range(1, 11):
        await asyncio.to_thread(server.json, "/test/burst/?bytes=1")
        await expect(page.locator("#count")).to_have_text(f"{21_000 + n} received, 200 shown")
    assert len(asked) - before <= 2 + (time.monotonic() - began) / 5, "it waits five seconds each time"


# --- Who may, and how -------------------------------------------------------------------------------------------------


async def test_staff_without_the_permission_find_no_monitor(sqlite_site: Site, tabs: Tabs) -> None:
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
    await expect(page.locator("noscript p")).to_contain_text("A live view needs JavaScript.")
    link = page.locator("noscript a")
    await expect(link).to_have_attribute("href", "/admin/streams/message/?channel=news")
    await expect(page.locator("#monitor")).to_be_hidden()
    await context.close()


async def test_everything_can_be_done_with_the_keyboard(sqlite_site: Site, tabs: Tabs) -> None:
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


async def test_page_fits_a_narrow_window_and_a_strict_policy(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    await tabs.log_in(server, "boss", is_staff=True, is_superuser=True)
    sqlite_site.manage("publish", "x" * 99, "y" * 5000, "--event", "z" * 99)
    await fits(tabs, f"{server.url}{MONITOR}?channel={'x' * 99}&start=newest&n=5")
    assert tabs.complaints == []
