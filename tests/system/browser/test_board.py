"""The demo site's board, in Chromium: what a person sees and does there."""

import json
import re
import signal
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.support.sites import Server, Site
from tests.system.browser.conftest import Tabs
from tests.system.browser.layout import fits_its_window

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

STAFF = {"is_staff": True, "is_superuser": True}

PAYLOADS = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '"><svg onload=window.hacked=1>',
    "</li></ol></template><iframe src='javascript:window.hacked=1'></iframe>",
    "{{ constructor.constructor('window.hacked=1')() }} ${window.hacked=1} &lt;b&gt;",
]


async def is_live(page: Page) -> None:
    await expect(page.locator("#state")).to_have_attribute("data-state", "live")


async def shown(page: Page) -> list[str]:
    """The data of the events on the board, newest first."""
    return await page.locator("#events .data").all_text_contents()


async def shows(page: Page, texts: list[str]) -> None:
    """Wait until the board shows exactly these, newest first."""
    await expect(page.locator("#events .data")).to_have_text(texts)


async def open_board(tabs: Tabs, server: Server, *, staff: bool = True) -> Page:
    if staff:
        await tabs.log_in(server, "editor", **STAFF)
    page = await tabs.open(server.url)
    await is_live(page)
    return page


async def test_published_in_one_tab_and_seen_in_another(sqlite_site: Site, tabs: Tabs) -> None:
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


async def test_what_is_typed_while_the_server_answers_stays(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_board(tabs, server)
    field = page.get_by_label("Data")

    async def type_meanwhile(route: Route) -> None:
        answer = await route.fetch()
        await field.fill("second")
        await route.fulfill(response=answer)

    await page.route("**/publish/", type_meanwhile)
    await field.fill("first")
    await page.get_by_role("button", name="Publish").click()
    await expect(page.locator("#published")).to_have_text("Published as event 1.")
    await expect(field).to_have_value("second")


async def test_focus_stays_where_it_was_brought_while_the_server_answers(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_board(tabs, server)
    drop = page.get_by_role("button", name="Drop the connection")

    async def go_on_meanwhile(route: Route) -> None:
        answer = await route.fetch()
        await drop.focus()
        await route.fulfill(response=answer)

    await page.route("**/publish/", go_on_meanwhile)
    await page.get_by_label("Data").fill("first")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#published")).to_have_text("Published as event 1.")
    await expect(drop).to_be_focused()


async def test_messages_of_before_are_on_the_page_and_come_once(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    server.json("/test/burst/?n=12")
    page = await open_board(tabs, server, staff=False)
    sqlite_site.manage("publish", "news", "live")
    await expect(page.locator("#events .data").first).to_have_text("live")
    ids = await page.locator("#events .event").evaluate_all("items => items.map(item => item.dataset.id)")
    assert ids == [str(number) for number in range(13, 2, -1)]
    assert tabs.complaints == []


async def test_what_is_published_between_page_and_stream_is_not_missed(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    sqlite_site.manage("publish", "news", "before")
    asked = []

    async def publish_first(route: Route) -> None:
        asked.append(route.request.url)
        sqlite_site.manage("publish", "news", "between")
        await route.continue_()

    await tabs.context.route("**/events/news/**", publish_first)
    page = await open_board(tabs, server, staff=False)
    await shows(page, ["between", "before"])
    assert parse_qs(urlsplit(asked[0]).query) == {"last_event_id": ["1"]}


async def test_what_came_with_the_page_and_again_by_the_stream_is_shown_once(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    server.json("/test/burst/?n=3")

    async def older_cursor(route: Route) -> None:
        # As if 2 and 3 had been published after the page took its cursor, and before it read the messages.
        answer = await route.fetch()
        await route.fulfill(response=answer, body=(await answer.text()).replace("last_event_id=3", "last_event_id=1"))

    await tabs.context.route(f"{server.url}/", older_cursor)
    page = await open_board(tabs, server, staff=False)
    sqlite_site.manage("publish", "news", "live")
    await expect(page.locator("#events .data").first).to_have_text("live")
    ids = await page.locator("#events .event").evaluate_all("items => items.map(item => item.dataset.id)")
    assert ids == ["4", "3", "2", "1"]


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


async def test_long_data_is_cut_on_the_page_and_says_so(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_board(tabs, server, staff=False)
    server.json("/test/burst/?bytes=100000")
    await expect(page.locator("#events .data")).to_have_text(re.compile(r"x … and 98,\d\d\d characters more$"))
    await page.reload()
    await expect(page.locator("#events .data")).to_have_text(re.compile(r"x … \(100,?\d\d\d characters in total\)$"))


async def test_error_of_the_form_is_beside_its_field_in_words(sqlite_site: Site, tabs: Tabs) -> None:
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


async def test_who_may_not_publish_sees_no_form_and_what_to_do(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_board(tabs, server, staff=False)
    await expect(page.get_by_role("button", name="Publish")).to_have_count(0)
    await expect(page.get_by_role("link", name="Log in as staff")).to_have_attribute("href", "/admin/login/?next=/")
    await tabs.log_in(server, "reader")
    await page.reload()
    await expect(page.get_by_role("button", name="Publish")).to_have_count(0)
    await expect(page.locator("main")).to_contain_text("You are logged in as reader, who cannot publish here.")
    assert tabs.complaints == []


async def test_session_that_ended_meanwhile_is_told_and_the_text_kept(sqlite_site: Site, tabs: Tabs) -> None:
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


async def test_dropped_connection_shows_its_replay_on_return(sqlite_site: Site, tabs: Tabs) -> None:
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
    server.json("/test/burst/?n=2&channel=public.other")  # not of this channel
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


async def test_board_outlives_a_killed_server_and_shows_each_event_once(sqlite_site: Site, tabs: Tabs) -> None:
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


async def test_gap_is_told_in_words(sqlite_site: Site, tabs: Tabs) -> None:
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


async def test_pruned_gap_keeps_what_the_board_had(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=None).serve()
    page = await open_board(tabs, server, staff=False)
    sqlite_site.manage("publish", "news", "one")
    await shows(page, ["one"])
    await page.locator("#drop").click()
    for text in ("two", "three"):
        sqlite_site.manage("publish", "news", text)
    sqlite_site.manage("prune_messages")
    server.stop(signal.SIGKILL)  # what it had in memory goes with it
    server.start()
    await page.locator("#drop").click()
    await expect(page.locator("#reset")).to_contain_text("Events after 1 were deleted from the log before")
    await shows(page, ["three", "one"])


async def test_refused_stream_is_told_and_tried_again(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(MAX_STREAMS_PER_PROCESS=1).serve()
    one = await open_board(tabs, server, staff=False)
    two = await tabs.open(server.url)
    await expect(two.locator("#state")).to_contain_text("Closed The server did not return a stream. Trying again in 5")
    await one.close()
    await is_live(two)


async def test_everything_can_be_done_with_the_keyboard(sqlite_site: Site, tabs: Tabs) -> None:
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
