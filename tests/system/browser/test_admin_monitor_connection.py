"""The connection of the live monitor in Chromium: gaps, failures and new event types."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from playwright.async_api import Route, expect

from tests.support.sites import Site, finish
from tests.system.browser.conftest import Tabs
from tests.system.browser.monitor_pages import (
    MONITOR,
    TYPES,
    hold_types,
    is_live,
    open_monitor,
    publish_each,
    publish_numbers,
    shows_data,
    shows_ids,
)

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_pruned_gap_shows_a_notice(sqlite_site: Site, tabs: Tabs) -> None:
    sqlite_site.settings(RETENTION_MESSAGES_PER_CHANNEL=2, PRUNE_SECONDS=None)
    finish(sqlite_site.call(publish_each, *(f"news message {n}" for n in range(1, 6))))
    sqlite_site.manage("prune_messages")
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news&start=after&id=1")
    notice = page.locator("#events [data-kind=stream-reset]")
    await expect(notice).to_contain_text(
        "Gap: some events might be missing Events after 1 were deleted from the log before they could be sent. "
        "The oldest remaining event is 4, the newest is 5."
    )
    await shows_ids(page, [5, 4])
    await expect(page.locator("#events > li").last).to_have_attribute("data-kind", "stream-reset")
    await page.get_by_label("Show only events that contain").fill("nothing has that")
    await expect(notice).to_be_visible()
    assert tabs.complaints == []


async def test_unknown_id_shows_a_notice(sqlite_site: Site, tabs: Tabs) -> None:
    finish(sqlite_site.call(publish_each, "news message a", "news rare b", "news message c"))
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news&start=after&id=99")
    await expect(page.locator("#events [data-kind=stream-reset]")).to_contain_text("The log has no event 99")
    await shows_data(page, ["c", "b", "a"])


async def test_replaced_log_is_read_from_start(sqlite_site: Site, tabs: Tabs) -> None:
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


async def test_monitor_survives_a_killed_server(sqlite_site: Site, tabs: Tabs) -> None:
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


async def test_failed_stream_is_retried(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(MAX_STREAMS_PER_PROCESS=1).serve()
    one = await open_monitor(tabs, server, "?channel=news")
    two = await tabs.open(f"{server.url}{MONITOR}?channel=news")
    await expect(two.locator("#state")).to_have_text("Closed")
    await expect(two.locator("#state-more")).to_contain_text("The stream could not be opened.")
    finish(sqlite_site.call(publish_each, "news message meanwhile"))
    await one.close()
    await is_live(two)
    await shows_data(two, ["meanwhile"])


async def test_refused_stream_is_not_opened(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(POLICY="streams.policies.BasePolicy").serve()
    await tabs.log_in(server, "boss", is_staff=True, is_superuser=True)
    asked: list[str] = []
    tabs.context.on("request", lambda request: asked.append(request.url))
    page = await tabs.open(f"{server.url}{MONITOR}?channel=news")
    await expect(page.locator("[role=alert]")).to_contain_text(
        "Reason given by the site’s policy: You do not have permission to read news."
    )
    await expect(page.locator(".state")).to_have_text("Closed")
    await page.wait_for_timeout(500)
    assert [url for url in asked if "/events/" in url] == []
    assert tabs.complaints == []


async def test_page_closes_and_resumes_its_stream(sqlite_site: Site, tabs: Tabs) -> None:
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


async def test_logged_out_user_is_informed(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_monitor(tabs, server, "?channel=news")
    await tabs.context.clear_cookies()
    await expect(page.locator("#state-more")).to_contain_text("Reload the page; you might have been logged out.")


async def test_type_found_while_away_is_shown(sqlite_site: Site, tabs: Tabs) -> None:
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


async def test_late_type_does_not_reload_the_log(sqlite_site: Site, tabs: Tabs) -> None:
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
        "Some older events are not shown The new event type rare was found late. Its events from 1 to 503 might not"
    )
    await expect(page.locator("#events .data:visible").nth(1)).to_have_text("last")
    await expect(page.locator("#events .data:visible").nth(2)).to_have_text("1499")
    await expect(page.locator("#count")).to_have_text("1502 received, 200 shown")
    assert [url.partition("last_event_id=")[2] for url in streams] == ["0", "503"]
    finish(sqlite_site.call(publish_each, "news rare live"))
    await expect(page.locator("#events > li").first).to_contain_text("live")
    assert tabs.complaints == []


async def test_failed_type_checks_wait(sqlite_site: Site, tabs: Tabs) -> None:
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
