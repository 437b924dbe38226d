"""Writing and sending a broadcast in Chromium."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Browser, Dialog, expect

from tests.support.clients import leave_all
from tests.support.sites import Site, finish
from tests.system.browser.broadcast_pages import DESK, listen, open_desk, stored, write
from tests.system.browser.conftest import Tabs
from tests.system.browser.layout import fits_its_window
from tests.system.browser.permissions import fits

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_compose_preview_test_and_send(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(POLL_SECONDS=0.3).serve()
    [reader, *_] = clients = await listen(server, "news", "news", "public.weather")
    page = await open_desk(tabs, server)
    await write(page, channels="news public.weather", event="alert", payload='{"text": "Größe",\n "n": 1.10}')
    await page.get_by_label("JSON").check()
    await expect(page.locator("#encoded")).to_have_text(
        'event: alert\nid: 1\ndata: {"text": "Größe",\ndata:  "n": 1.10}\n\n', use_inner_text=False
    )
    await expect(page.locator("#event-data")).to_have_text('{"text": "Größe",\n "n": 1.10}', use_inner_text=False)
    await expect(page.locator("#audience")).to_contain_text("news: 2 connected now")
    await expect(page.locator("#audience")).to_contain_text("public.weather: 1 connected now")
    [another] = await listen(server, "news")  # while the page is open
    await expect(page.locator("#audience")).to_contain_text("news: 3 connected now")

    await page.get_by_role("button", name="Send a test message to me").click()
    await expect(page.locator("#test-state")).to_have_text(
        re.compile(r"Received event 1 with type alert, \d+ ms after")
    )
    await expect(page.locator("#test-data")).to_have_text('{"text": "Größe",\n "n": 1.10}', use_inner_text=False)
    assert [row[1] for row in stored(sqlite_site)] == [f"user.{await own_pk(sqlite_site)}"]

    await page.get_by_role("button", name="Send now…").click()
    await expect(page.locator("h1")).to_have_text("Send this broadcast now?")
    await expect(page.get_by_role("row", name="news")).to_contain_text("3")
    await another.close()
    await expect(page.get_by_role("row", name="news")).to_contain_text("2")
    await page.get_by_role("button", name="Send to 3 connections now").click()
    await expect(page.locator(".messagelist")).to_have_text("Sent. 3 connections were open.")
    await expect(page.locator("#reached")).to_have_text("Connections reached: 3.")
    await expect(page.get_by_role("link", name="2", exact=True)).to_be_visible()
    await expect(page.get_by_role("button", name="Send now…")).to_have_count(0)
    for client in clients:
        await client.read_until(1)
    assert [(event.event, event.data) for event in reader.events] == [("alert", '{"text": "Größe",\n "n": 1.10}')]
    assert [row[1:3] for row in stored(sqlite_site)[1:]] == [("news", "alert"), ("public.weather", "alert")]

    await page.get_by_role("button", name="Copy as new draft").click()
    await expect(page.get_by_label("Content", exact=True)).to_have_value('{"text": "Größe",\n "n": 1.10}')
    assert tabs.complaints == []
    leave_all()


async def own_pk(site: Site) -> int:
    [(pk,)] = await asyncio.to_thread(site.execute, "SELECT id FROM auth_user WHERE username = 'editor'")
    return int(pk)


async def test_json_error_is_shown_while_typing(sqlite_site: Site, tabs: Tabs) -> None:
    page = await open_desk(tabs, sqlite_site.serve())
    await write(page, payload='{"😀": 1,\n "b" 2}')
    await expect(page.locator("#payload-problem")).to_be_hidden()
    await page.get_by_label("JSON").check()
    await expect(page.locator("#payload-problem")).to_have_text(
        "The text is not valid JSON: Expecting ':' delimiter (line 2, column 6)."
    )
    await expect(page.get_by_role("button", name="Send a test message to me")).to_be_disabled()
    await page.get_by_role("button", name="Go to the error").click()
    payload = page.get_by_label("Content", exact=True)
    await expect(payload).to_be_focused()
    await expect(payload).to_have_attribute("aria-invalid", "true")
    await page.keyboard.type(": 2")  # replaces the selected character
    await expect(page.locator("#payload-problem")).to_be_visible()  # the text now has one 2 too many
    await payload.fill('{"😀": 1,\n "b": 2}')
    await expect(page.locator("#payload-problem")).to_be_hidden()
    await expect(page.locator("#encoded")).to_contain_text("😀")
    assert tabs.complaints == []


async def test_channels_are_edited_by_keyboard(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    for channel in ("news.local", "news.world", "weather"):
        await asyncio.to_thread(server.json, f"/test/burst/?channel={channel}")
    page = await open_desk(tabs, server)
    await page.get_by_label("Channels").press_sequentially("news.")
    await expect(page.locator("#known-channels option")).to_have_count(2)
    await page.keyboard.type("local ")
    await page.keyboard.type("bad!name,")
    await expect(page.locator(".chips li")).to_have_text([re.compile("news.local"), re.compile("bad!name")])
    await page.keyboard.press("Tab")
    await expect(page.locator("#channels-problem")).to_contain_text("“bad!name” is not a valid channel name")
    await page.get_by_label("Channels").focus()
    await page.keyboard.press("Backspace")
    await expect(page.locator(".chips li")).to_have_text([re.compile("news.local")])
    await expect(page.locator("#channels-problem")).to_be_hidden()
    await page.keyboard.type("weather")  # saved although it is not confirmed with Enter
    await page.get_by_label("Title").fill("x")
    await page.get_by_label("Content", exact=True).fill("x")
    await page.get_by_role("button", name="Remove news.local").click()
    await page.get_by_role("button", name="Save draft").click()
    await expect(page.locator(".messagelist")).to_have_text("Saved as a draft. Nothing has been sent.")
    assert sqlite_site.execute("SELECT channels FROM streams_broadcast") == [('["weather"]',)]
    assert tabs.complaints == []


async def test_errors_are_shown_and_text_kept(sqlite_site: Site, tabs: Tabs) -> None:
    page = await open_desk(tabs, sqlite_site.serve())
    await write(page, can_be_sent=False, title="", event="stream-reset", payload="still here")
    await page.get_by_role("button", name="Save draft").click()
    await expect(page.locator("#title-problem")).to_contain_text("Enter a title")
    await expect(page.locator("#event-problem")).to_contain_text("does not start with “stream-”")
    await expect(page.get_by_label("Title")).to_be_focused()
    await page.keyboard.type("x")
    await expect(page.locator("#title-problem")).to_be_hidden()
    await expect(page.get_by_label("Content", exact=True)).to_have_value("still here")
    await expect(page.locator(".chips li")).to_have_count(1)


async def test_leaving_with_unsaved_changes_asks(sqlite_site: Site, tabs: Tabs) -> None:
    page = await open_desk(tabs, sqlite_site.serve())
    asked: list[str] = []

    async def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        await dialog.dismiss()

    page.on("dialog", stay)
    await write(page)
    await expect(page.locator("#unsaved")).to_have_text("You have unsaved changes.")
    await page.close(run_before_unload=True)
    async with asyncio.timeout(20):
        while not asked:
            await asyncio.sleep(0.05)
    assert asked == ["beforeunload"]
    await expect(page.get_by_label("Title")).to_have_value("Night works")


async def test_double_click_on_send_sends_once(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_desk(tabs, server)
    await write(page)
    await page.get_by_role("button", name="Send now…").dblclick()
    await page.get_by_role("button", name="Send, although no client is connected").dblclick()
    await expect(page.locator("#reached")).to_be_visible()
    assert [row[:2] for row in stored(sqlite_site)] == [(1, "news")]


async def test_concurrent_requests_send_once(site: Site, tabs: Tabs) -> None:
    server = site.serve()
    page = await open_desk(tabs, server)
    for sent in range(1, 4):
        await write(page)
        await page.get_by_role("button", name="Send now…").click()
        token = await page.locator("#confirm input[name=csrfmiddlewaretoken]").get_attribute("value")
        post = {"form": {"csrfmiddlewaretoken": str(token), "revision": "1"}}
        responses = await asyncio.gather(
            *(page.request.post(page.url, **post) for _ in range(5))  # type: ignore[arg-type]
        )
        assert {response.status for response in responses} == {200}
        assert len(stored(site)) == sent
        assert site.execute("SELECT count(*) FROM django_admin_log WHERE change_message LIKE 'Sent %'") == [(sent,)]
        await page.goto(f"{server.url}{DESK}add/")


async def test_pages_obey_strict_csp(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_desk(tabs, server)
    await write(page)
    await page.get_by_role("button", name="Save draft").click()
    await expect(page.locator(".messagelist")).to_be_visible()
    for path in ("", "add/", "1/change/", "1/schedule/", "1/send/"):
        await fits(tabs, f"{server.url}{DESK}{path}")
    await page.goto(f"{server.url}{DESK}1/send/")
    await page.get_by_role("button", name="Send, although no client is connected").click()
    await expect(page.locator("#reached")).to_be_visible()
    await fits(tabs, page.url)
    assert tabs.complaints == []


async def test_trailing_space_in_type_is_removed(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_desk(tabs, server)
    await write(page, event="alert ")
    await page.get_by_role("button", name="Send a test message to me").click()
    await expect(page.locator("#test-state")).to_contain_text("Received event 1 with type alert")
    await page.get_by_label("Event type").fill("message ")
    await expect(page.locator("#encoded")).to_have_text("id: 2\ndata: No trains.\n\n", use_inner_text=False)
    await expect(page.locator("#typed")).to_be_hidden()


async def test_incomplete_counts_are_marked(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    finish(sqlite_site.script(CROWDED_PROCESS))
    page = await open_desk(tabs, server)
    await write(page, channels="quiet")
    await expect(page.locator("#audience")).to_contain_text("quiet: number of connections unknown")
    await expect(page.locator("#audience")).to_contain_text("There might be more connections than shown here")
    await page.get_by_role("button", name="Send now…").click()
    async with page.expect_response(re.compile("audience")):
        pass  # then the script updates the button
    await expect(page.locator("#send-to")).to_have_text("Send now")
    assert tabs.complaints == []


CROWDED_PROCESS = """
from datetime import timedelta
from django.utils import timezone
from streams.models import Node
now = timezone.now()
Node.objects.create(
    id="n1", host="h", pid=1, started_at=now, seen_at=now + timedelta(hours=1), channels={"news": 3}, connections=3,
    channels_left_out=400,
)
"""


async def test_whole_flow_without_javascript(sqlite_site: Site, chromium: Browser) -> None:
    server = sqlite_site.serve()
    context = await chromium.new_context(java_script_enabled=False)
    tabs = Tabs(context)
    page = await open_desk(tabs, server)
    assert "The test requires JavaScript." in await page.content()
    await page.get_by_label("Title").fill("Plain")
    await page.get_by_label("Channels").fill("news, weather")
    await page.get_by_label("Content", exact=True).fill("a\nb")
    await page.get_by_role("button", name="Send now…").click()
    await expect(page.locator("#encoded")).to_have_text("id: 1\ndata: a\ndata: b\n\n", use_inner_text=False)
    await page.get_by_role("button", name="Send, although no client is connected").click()
    await expect(page.locator(".messagelist")).to_have_text("Sent. 0 connections were open.")
    assert [row[1] for row in stored(sqlite_site)] == ["news", "weather"]
    await context.close()


HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "\"><img src=x onerror='window.hacked = 1'>",
    "</pre></textarea><svg onload=window.hacked=1>",
    "{{ 7 }} {% now 'Y' %} ${window.hacked = 1}",
]


async def test_what_is_written_stays_text(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_desk(tabs, server)
    payload = "\n".join([*HOSTILE, "a\u202eb", "x" * 200_000])
    await write(page, title=HOSTILE[1], event=HOSTILE[2][:90], payload=payload)
    await expect(page.locator("#encoded")).to_contain_text("aU+202Eb")
    await page.get_by_role("button", name="Send a test message to me").click()
    await expect(page.locator("#test-data")).to_contain_text("aU+202Eb")
    await page.get_by_role("button", name="Send now…").click()
    await expect(page.locator("#encoded")).to_contain_text(HOSTILE[0])
    await page.get_by_role("button", name="Send, although no client is connected").click()
    await expect(page.locator("#reached")).to_be_visible()
    await expect(page.locator("#encoded .invisible")).to_have_text("U+202E")
    await fits_its_window(page)
    await page.goto(f"{server.url}{DESK}")
    await expect(page.locator("main")).to_contain_text(HOSTILE[1])
    assert await page.evaluate("window.hacked") is None
    assert tabs.complaints == []


async def test_pages_fit_360_pixels(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_desk(tabs, server)
    await page.set_viewport_size({"width": 360, "height": 740})
    await write(page, channels="news a.rather.long.name.of.a.channel.that.somebody.has.thought.of", payload="x" * 500)
    await expect(page.locator("#encoded")).to_be_visible()
    for button in ("Send now…", "Send, although no client is connected"):
        await fits_its_window(page)
        await page.get_by_role("button", name=button).click()
        await expect(page.locator("#encoded")).to_be_visible()
    await fits_its_window(page)


async def test_refused_own_channel_is_explained(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(POLICY="streams.policies.BasePolicy").serve()
    page = await open_desk(tabs, server)
    await page.get_by_label("Content", exact=True).fill("x")
    await page.get_by_role("button", name="Send a test message to me").click()
    await expect(page.locator("#test-state")).to_contain_text("cannot be read. The site’s policy does not allow it")
    assert stored(sqlite_site) == []


async def test_page_recovers_when_server_returns(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_desk(tabs, server)
    await write(page)
    await expect(page.locator("#audience")).to_contain_text("news: 0 connected now")
    server.stop()
    await expect(page.locator("#audience")).to_contain_text("The server cannot be reached.")
    server.start()
    await expect(page.locator("#audience")).to_contain_text("news: 0 connected now")
    await page.get_by_role("button", name="Save draft").click()
    await expect(page.locator(".messagelist")).to_be_visible()
