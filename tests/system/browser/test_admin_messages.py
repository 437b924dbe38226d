"""The admin's message pages in Chromium: their content, their actions and the permissions that they need."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from streams import NewMessage, publish_many
from tests.support.sites import Server, Site, finish
from tests.system.browser.conftest import Tabs
from tests.system.browser.layout import fits_its_window
from tests.system.browser.permissions import give

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

LIST = "/admin/streams/message/"

PAYLOADS = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '"><svg onload=window.hacked=1>',
    '" onfocus="window.hacked=1" autofocus="" x="',
    "{{ 7|add:1 }}{% now 'Y' %} ${window.hacked=1} &lt;b&gt;",
    "</pre></td></table><iframe src='javascript:window.hacked=1'></iframe>",
]


def publish_from_stdin() -> None:
    publish_many(NewMessage(**fields) for fields in json.load(sys.stdin))


def fill(site: Site, *messages: dict[str, Any]) -> None:
    process = site.call(publish_from_stdin)
    _, errors = process.communicate(json.dumps(messages), timeout=120)
    assert process.returncode == 0, errors


async def log_in(tabs: Tabs, site: Site, server: Server, name: str, *permissions: str) -> None:
    await tabs.log_in(server, name, is_staff=True)
    finish(site.call(give, name, *permissions))


async def ids(page: Page) -> list[int]:
    return [int(text) for text in await page.locator(".streams tbody th").all_text_contents()]


async def set_strict_csp(tabs: Tabs) -> None:
    """Send the admin's pages with a Content-Security-Policy that forbids inline scripts, styles and handlers."""

    async def add(route: Route) -> None:
        response = await route.fetch()
        await route.fulfill(
            response=response, headers={**response.headers, "content-security-policy": "default-src 'self'"}
        )

    await tabs.context.route("**/admin/streams/**", add)


async def never_scrolls_sideways(page: Page) -> None:
    for width in (360, 1280):
        await page.set_viewport_size({"width": width, "height": 800})
        await fits_its_window(page)


async def test_list_is_filtered_and_paged(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    await log_in(tabs, sqlite_site, server, "reader", "view_message")
    page = await tabs.open(server.url + LIST)
    await expect(page.locator(".streams")).to_contain_text("No messages have been published yet.")

    fill(sqlite_site, *({"channel": "news", "data": {"n": n}} for n in range(1, 221)))
    fill(sqlite_site, {"channel": "weather", "data": "Storm warning", "event": "alert"})
    await page.get_by_role("link", name="Newest").click()
    assert await ids(page) == list(range(221, 121, -1))
    await page.get_by_role("link", name="Older", exact=True).click()
    assert await ids(page) == list(range(121, 21, -1))
    await page.get_by_role("link", name="Older", exact=True).click()
    assert await ids(page) == list(range(21, 0, -1))
    await expect(page.get_by_role("link", name="Older", exact=True)).to_have_count(0)
    await page.get_by_role("link", name="Newer", exact=True).click()
    assert await ids(page) == list(range(121, 21, -1))
    await page.get_by_role("link", name="Oldest").click()
    assert await ids(page) == list(range(100, 0, -1))

    await page.get_by_label("Data contains").fill("storm")
    await page.get_by_role("button", name="Filter").click()
    assert await ids(page) == [221]
    row = page.locator(".streams tbody tr")
    await expect(row).to_have_text(re.compile(r"221\s+\d{4}-.* UTC\s+weather\s+alert\s+Storm warning\s+13\s+–"))
    await page.get_by_label("Data contains").fill("")
    await page.get_by_label("Channel").fill("weather")
    await page.get_by_label("Event type").fill("message")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.locator(".streams")).to_contain_text("No messages match the filter.")
    await page.get_by_role("link", name="All messages").click()
    day = await page.locator(".streams tbody time").first.get_attribute("datetime")
    assert day is not None
    await page.get_by_label("Day (UTC)").fill(day[:10])
    await page.get_by_role("button", name="Filter").click()
    assert await ids(page) == list(range(221, 121, -1))
    await page.get_by_label("Day (UTC)").fill("2001-01-01")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.locator(".streams")).to_contain_text("No messages match the filter.")
    assert tabs.complaints == []


async def test_list_is_used_by_keyboard(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    fill(sqlite_site, *({"channel": "news" if n % 2 else "weather", "data": n} for n in range(1, 301)))
    await log_in(tabs, sqlite_site, server, "reader", "view_message")
    page = await tabs.open(server.url + LIST)
    await page.get_by_label("Channel").focus()
    await page.keyboard.type("weather")
    for label in ("Event type", "Day (UTC)"):
        await page.keyboard.press("Tab")
        await expect(page.get_by_label(label)).to_be_focused()
    for _ in range(6):  # the date field has several tab stops
        await page.keyboard.press("Tab")
        if await page.get_by_label("Data contains").evaluate("field => field === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    await expect(page.locator(".streams tbody th").first).to_have_text("300")
    assert await ids(page) == list(range(300, 100, -2))
    await page.get_by_role("link", name="Older", exact=True).focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(".streams tbody th").first).to_have_text("100")
    assert await ids(page) == list(range(100, 0, -2))
    await page.get_by_role("region", name="Messages").focus()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="100", exact=True)).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Event 100")
    assert tabs.complaints == []


async def test_what_is_published_never_scripts_a_page(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    fill(sqlite_site, *({"channel": "news", "data": text, "event": text} for text in PAYLOADS))
    long = "<b>" + "x" * 200_000
    hidden = "invoice‮fdp.exe ​⁦"
    fill(sqlite_site, {"channel": "news", "data": long}, {"channel": "news", "data": hidden, "event": "a‮b"})
    await log_in(tabs, sqlite_site, server, "editor", "view_message", "add_message", "delete_message")
    await set_strict_csp(tabs)
    await tabs.open(f"{server.url}{LIST}prune/")
    page = await tabs.open(server.url + LIST)
    texts = await page.locator(".streams td.start").all_text_contents()
    assert texts[2:] == PAYLOADS[::-1]
    assert texts[1] == long[:200] + "…"
    assert texts[0] == "invoiceU+202Efdp.exe U+200BU+2066"
    await never_scrolls_sideways(page)
    for pk in range(1, len(PAYLOADS) + 3):
        for path in (f"{LIST}{pk}/change/", f"{LIST}{pk}/send-again/"):
            await page.goto(server.url + path)
            data = await page.locator("pre.data").first.text_content()
            assert data is not None
            if pk <= len(PAYLOADS):
                assert data == PAYLOADS[pk - 1]
            elif data.startswith("<b>"):
                assert data == long[:20_000]
                await expect(page.locator(".streams")).to_contain_text("180003 more characters are not shown.")
            else:
                assert data == "invoiceU+202Efdp.exe U+200BU+2066"
            assert await page.locator("pre.data :not(span.invisible)").count() == 0
            await never_scrolls_sideways(page)
            assert await page.evaluate("window.hacked") is None
    for text in (*PAYLOADS, "x" * 1000, "‮"):
        await page.goto(f"{server.url}{LIST}diagnosis/?message=1&user=")
        await page.get_by_label("Last event id of the client").fill(text)
        await page.get_by_role("button", name="Check").click()
        await expect(page.locator(".findings")).to_contain_text("is not a valid event id")
        await never_scrolls_sideways(page)
        assert await page.evaluate("window.hacked") is None
    assert tabs.complaints == []


async def test_whole_data_comes_as_a_file(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    data = "<script>window.hacked = 1</script>" + "ü" * 50_000
    fill(sqlite_site, {"channel": "news", "data": data})
    await log_in(tabs, sqlite_site, server, "reader", "view_message")
    page = await tabs.open(f"{server.url}{LIST}1/change/")
    async with page.expect_download() as started:
        await page.get_by_role("link", name="Download the complete data as a text file").click()
    download = await started.value
    assert download.suggested_filename == "message-1.txt"
    assert (await download.path()).read_text() == data


async def test_message_is_sent_again_to_who_listens(site: Site, tabs: Tabs) -> None:
    server = site.settings(PRESENCE_SECONDS=0.2).serve()
    fill(site, {"channel": "news", "data": "Trains run again.", "event": "alert"})
    board = await tabs.open(server.url)
    await expect(board.locator("#state")).to_have_attribute("data-state", "live")
    await log_in(tabs, site, server, "editor", "view_message", "add_message")
    page = await tabs.open(server.url + LIST)
    await page.get_by_role("link", name="1", exact=True).click()
    await page.get_by_role("link", name="Send again").click()
    await expect(page.locator(".streams")).to_contain_text(re.compile(r"Connections now\s*1"))
    await expect(board.locator("#events .data")).to_have_text(["Trains run again."])
    # A double click sends two requests with the same form.
    await page.get_by_role("button", name="Send again to news").dblclick()
    await expect(page.locator(".messagelist")).to_contain_text("Sent again as event 2.")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Event 2")
    await expect(board.locator("#events .data")).to_have_text(["Trains run again."] * 2)
    await page.goto(f"{server.url}{LIST}1/history/")
    await expect(page.locator("#change-history tbody tr")).to_have_count(1)
    await expect(page.locator("#change-history tbody tr")).to_contain_text("editor")
    assert (
        site.execute("SELECT channel, event, data FROM streams_message ORDER BY position")
        == [("news", "alert", "Trains run again.")] * 2
    )

    # Another user has a new form, which sends another message.
    await log_in(tabs, site, server, "second", "view_message", "add_message")
    await page.goto(f"{server.url}{LIST}1/send-again/")
    await page.get_by_role("button", name="Send again to news").click()
    await expect(page.locator(".messagelist")).to_contain_text("Sent again as event 3.")
    await expect(page.locator(".facts")).to_contain_text("second")
    assert tabs.complaints == []


async def test_form_that_comes_several_times_at_once_sends_once(site: Site, tabs: Tabs) -> None:
    server = site.serve()
    fill(site, {"channel": "news", "data": "x"})
    await log_in(tabs, site, server, "editor", "view_message", "add_message")
    page = await tabs.open(f"{server.url}{LIST}1/send-again/")
    urls = await page.evaluate(
        """async () => {
            const body = () => new URLSearchParams(new FormData(document.querySelector(".streams form")));
            const send = () => fetch("", { method: "POST", body: body() });
            return (await Promise.all([send(), send(), send(), send()])).map((response) => response.url);
        }"""
    )
    assert {url.removeprefix(server.url) for url in urls} == {f"{LIST}2/change/"}
    assert site.execute("SELECT position, data FROM streams_message ORDER BY position") == [(1, "x"), (2, "x")]
    assert site.execute("SELECT object_id, change_message FROM django_admin_log") == [("1", "Sent again as event 2.")]


async def test_pruning_is_tried_and_then_done(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(RETENTION_MESSAGES_PER_CHANNEL=2, PRUNE_SECONDS=None).serve()
    fill(sqlite_site, *({"channel": "news", "data": n} for n in range(5)))
    await log_in(tabs, sqlite_site, server, "pruner", "view_message", "delete_message")
    page = await tabs.open(server.url + LIST)
    await page.get_by_role("link", name="Delete expired messages").click()
    row = page.get_by_role("table", name="Messages to delete").locator("tbody tr")
    await expect(row).to_have_text(re.compile(r"news\s+too many\s+3\s+3"))
    await never_scrolls_sideways(page)
    assert sqlite_site.execute("SELECT count(*) FROM streams_message") == [(5,)]
    await page.get_by_role("button", name="Delete now").click()
    await expect(page.locator(".messagelist")).to_contain_text("Deleted 3 messages.")
    await expect(page.locator(".streams")).to_contain_text("There are no expired messages")
    await expect(page.get_by_role("button", name="Delete now")).to_have_count(0)
    await page.goto(server.url + LIST)
    assert await ids(page) == [5, 4]
    await page.goto(f"{server.url}{LIST}event/2/")
    await expect(page.get_by_label("Event id", exact=True)).to_have_value("2")
    await page.get_by_role("button", name="Check").click()
    await expect(page.locator(".findings")).to_contain_text(
        "Event 2 is no longer in the log. It expired and was deleted, unless"
    )
    assert tabs.complaints == []


async def test_why_is_answered_from_a_messages_page(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(PRESENCE_SECONDS=0.2).serve()
    fill(sqlite_site, *({"channel": "secret", "data": n, "event": "alert"} for n in range(3)))
    await tabs.log_in(server, "ada")
    await log_in(tabs, sqlite_site, server, "reader", "view_message")
    page = await tabs.open(f"{server.url}{LIST}2/change/")
    await page.get_by_role("link", name="Why was it not received?").click()
    await expect(page.get_by_label("Event id", exact=True)).to_have_value("2")
    await expect(page.locator(".findings")).to_have_count(0)
    await page.get_by_label("User").focus()
    await page.keyboard.type("ada")
    await page.keyboard.press("Tab")
    await page.keyboard.type("1")
    await page.keyboard.press("Enter")
    findings = page.locator(".findings li")
    await expect(findings.nth(0)).to_contain_text("Event 2 is in the log, in channel secret.")
    await expect(findings.nth(1)).to_contain_text("ada cannot read secret.")
    await expect(findings.nth(1).locator(".state")).to_have_text("Reason")
    await expect(findings.nth(2)).to_contain_text("A stream that resumes from 1 delivers this event")
    await expect(findings.nth(3)).to_contain_text("not to onmessage")
    await expect(findings.nth(4)).to_contain_text("No client is connected now")
    await never_scrolls_sideways(page)
    await page.get_by_label("User").fill("nobody-of-that-name")
    await page.get_by_role("button", name="Check").click()
    await expect(page.get_by_label("User")).to_have_attribute("aria-invalid", "true")
    await expect(page.locator(".problem")).to_have_text("No user has this username.")
    await page.get_by_label("User").fill("reader")
    await page.get_by_role("button", name="Check").click()
    await expect(findings.nth(1)).to_contain_text("reader can read secret")
    await page.get_by_role("link", name="Open the message").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Event 2")
    assert tabs.complaints == []


@pytest.mark.parametrize("lacking", ["view_message", "add_message", "delete_message"])
async def test_staff_who_lack_a_permission(sqlite_site: Site, tabs: Tabs, lacking: str) -> None:
    server = sqlite_site.serve()
    fill(sqlite_site, {"channel": "news", "data": "something"})
    held = {"view_message", "add_message", "delete_message"} - {lacking}
    await log_in(tabs, sqlite_site, server, "editor", *held)
    page = await tabs.open(server.url + LIST)
    if lacking == "view_message":
        for path in ("", "1/change/", "1/data/", "1/send-again/", "diagnosis/", "prune/"):
            response = await page.goto(server.url + LIST + path)
            assert response is not None
            assert response.status == 403, path
            await expect(page.locator("body")).not_to_contain_text("something")
        return
    await expect(page.get_by_role("link", name="Delete expired messages")).to_have_count(
        int(lacking != "delete_message")
    )
    await page.get_by_role("link", name="1", exact=True).click()
    await expect(page.get_by_role("link", name="Send again")).to_have_count(int(lacking != "add_message"))
    for path, needed in (("1/send-again/", "add_message"), ("prune/", "delete_message")):
        response = await page.goto(server.url + LIST + path)
        assert response is not None
        assert response.status == (403 if needed == lacking else 200)
        if needed == lacking:
            cookies = await tabs.context.cookies()
            token = next((cookie["value"] for cookie in cookies if cookie["name"] == "csrftoken"), "")
            posted = await page.request.post(
                server.url + LIST + path, form={"csrfmiddlewaretoken": token, "key": "0" * 32}
            )
            assert posted.status == 403
    assert sqlite_site.execute("SELECT count(*) FROM streams_message") == [(1,)]
