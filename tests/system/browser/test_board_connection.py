"""The demo site's board in Chromium: the transition from page to stream, lost connections, and gaps."""

import re
import signal
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import Route, expect

from tests.support.sites import Site
from tests.system.browser.board_pages import is_live, open_board, shown, shows
from tests.system.browser.conftest import Tabs

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_older_messages_are_shown_once(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    server.json("/test/burst/?n=12")
    page = await open_board(tabs, server, staff=False)
    sqlite_site.manage("publish", "news", "live")
    await expect(page.locator("#events .data").first).to_have_text("live")
    ids = await page.locator("#events .event").evaluate_all("items => items.map(item => item.dataset.id)")
    assert ids == [str(number) for number in range(13, 2, -1)]
    assert tabs.complaints == []


async def test_message_between_page_and_stream_appears(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    sqlite_site.manage("publish", "news", "before")
    requested = []

    async def publish_first(route: Route) -> None:
        requested.append(route.request.url)
        sqlite_site.manage("publish", "news", "between")
        await route.continue_()

    await tabs.context.route("**/events/news/**", publish_first)
    page = await open_board(tabs, server, staff=False)
    await shows(page, ["between", "before"])
    assert parse_qs(urlsplit(requested[0]).query) == {"last_event_id": ["1"]}


async def test_repeated_message_is_shown_once(sqlite_site: Site, tabs: Tabs) -> None:
    """The page contains the message, and the stream sends it again."""
    server = sqlite_site.serve()
    server.json("/test/burst/?n=3")

    async def older_cursor(route: Route) -> None:
        # The page looks like this if 2 and 3 are published after it took its cursor and before it read the messages.
        response = await route.fetch()
        await route.fulfill(
            response=response, body=(await response.text()).replace("last_event_id=3", "last_event_id=1")
        )

    await tabs.context.route(f"{server.url}/", older_cursor)
    page = await open_board(tabs, server, staff=False)
    sqlite_site.manage("publish", "news", "live")
    await expect(page.locator("#events .data").first).to_have_text("live")
    ids = await page.locator("#events .event").evaluate_all("items => items.map(item => item.dataset.id)")
    assert ids == ["4", "3", "2", "1"]


async def test_dropped_connection_shows_its_replay(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_board(tabs, server, staff=False)
    drop, state, replay = page.locator("#drop"), page.locator("#state"), page.locator("#replay")
    sqlite_site.manage("publish", "news", "before")
    await shows(page, ["before"])
    await expect(drop).to_have_text("Drop the connection")
    await expect(replay).to_be_hidden()

    await drop.click()
    await expect(state).to_contain_text("Closed You dropped the connection.")
    await expect(page.locator("#listeners")).to_have_text("0 clients listen in this server process.")
    server.json("/test/burst/?n=2&channel=public.other")  # another channel
    sqlite_site.manage("publish", "news", "away one")
    sqlite_site.manage("publish", "news", "away two")
    assert await shown(page) == ["before"]

    await drop.click()
    await shows(page, ["away two", "away one", "before"])
    await expect(state).to_have_text(re.compile("^Live"))
    await expect(replay).to_have_text("While you were away, 2 events were published and have been replayed: 4, 5.")
    sqlite_site.manage("publish", "news", "after")
    await shows(page, ["after", "away two", "away one", "before"])
    badges = page.locator("#events .badge")
    assert [await badges.nth(number).is_visible() for number in range(4)] == [False, True, True, False]

    await drop.click()
    await drop.click()
    await expect(replay).to_have_text("While you were away, nothing was published, so nothing was replayed.")
    assert tabs.complaints == []


async def test_killed_server_loses_and_repeats_nothing(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(RETRY_MILLISECONDS=200).serve()
    page = await open_board(tabs, server, staff=False)
    sqlite_site.manage("publish", "news", "one")
    await shows(page, ["one"])
    server.stop(signal.SIGKILL)
    await expect(page.locator("#state")).to_contain_text("Reconnecting … The connection was lost.")
    sqlite_site.manage("publish", "news", "two")
    sqlite_site.manage("publish", "news", "three", "--event", "alert")
    server.start()
    await is_live(page)
    sqlite_site.manage("publish", "news", "four")
    await shows(page, ["four", "three", "two", "one"])
    await expect(page.locator("#replay")).to_contain_text("2 events were published and have been replayed: 2, 3.")


async def test_gap_is_explained(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(RETRY_MILLISECONDS=200).serve()
    server.json("/test/burst/?n=5")
    page = await open_board(tabs, server, staff=False)
    server.stop(signal.SIGKILL)
    sqlite_site.execute("DELETE FROM streams_message")
    sqlite_site.execute("DELETE FROM streams_loghead")
    sqlite_site.manage("publish", "news", "first of a new log")
    server.start()
    await expect(page.locator("#reset")).to_contain_text("You might have missed events. The log has no event 5")
    await shows(page, ["first of a new log"])
    sqlite_site.manage("publish", "news", "second")
    await shows(page, ["second", "first of a new log"])


async def test_pruned_gap_keeps_shown_events(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=None).serve()
    page = await open_board(tabs, server, staff=False)
    sqlite_site.manage("publish", "news", "one")
    await shows(page, ["one"])
    await page.locator("#drop").click()
    for text in ("two", "three"):
        sqlite_site.manage("publish", "news", text)
    sqlite_site.manage("prune_messages")
    server.stop(signal.SIGKILL)  # the messages in its memory are lost
    server.start()
    await page.locator("#drop").click()
    await expect(page.locator("#reset")).to_contain_text("Events after 1 were deleted from the log before")
    await shows(page, ["three", "one"])


async def test_refused_stream_is_retried(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(MAX_STREAMS_PER_PROCESS=1).serve()
    one = await open_board(tabs, server, staff=False)
    two = await tabs.open(server.url)
    await expect(two.locator("#state")).to_contain_text("Connecting … This process serves its 1 streams")
    await one.close()
    await is_live(two)
