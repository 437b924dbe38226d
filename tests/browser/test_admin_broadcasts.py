"""The broadcast desk in Chromium: what staff do there, alone and two at once, with and without each permission."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from playwright.async_api import Browser, Dialog, Page, expect

from tests.browser.conftest import Tabs
from tests.browser.layout import fits_its_window
from tests.browser.permissions import fits, log_in_with
from tests.clients import StreamClient, leave_all
from tests.sites import Server, Site, finish

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

DESK = "/admin/streams/broadcast/"
STAFF = {"is_staff": True, "is_superuser": True}


async def open_desk(tabs: Tabs, server: Server, path: str = "add/") -> Page:
    await tabs.log_in(server, "editor", **STAFF)
    return await tabs.open(f"{server.url}{DESK}{path}")


async def write(page: Page, *, can_be_sent: bool = True, **fields: str) -> None:
    """Fill the form in as a person would."""
    said = {"title": "Night works", "channels": "news", "event": "message", "payload": "No trains.", **fields}
    await page.get_by_label("Title").fill(said["title"])
    for name in said["channels"].split():
        await page.get_by_label("Channels").fill(name)
        await page.keyboard.press("Enter")
    await page.get_by_label("Type").fill(said["event"])
    await page.get_by_label("Payload", exact=True).fill(said["payload"])
    # The preview comes a moment later, and moves what is below it. A person clicks when nothing moves any more.
    if can_be_sent:
        await expect(page.locator("#wire")).not_to_be_empty()


async def listen(server: Server, *channels: str) -> list[StreamClient]:
    clients = [await StreamClient(server.port, f"/events/{channel}/").connect() for channel in channels]
    for client in clients:
        await client.read_control(1)
    return clients


def stored(site: Site) -> list[Any]:
    return site.execute("SELECT position, channel, event, data FROM streams_message ORDER BY position")


async def test_compose_preview_test_and_send(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(POLL_SECONDS=0.3).serve()
    [reader, *_] = clients = await listen(server, "news", "news", "public.weather")
    page = await open_desk(tabs, server)
    await write(page, channels="news public.weather", event="alert", payload='{"text": "Größe",\n "n": 1.10}')
    await page.get_by_label("JSON").check()
    await expect(page.locator("#wire")).to_have_text(
        'event: alert\nid: 1\ndata: {"text": "Größe",\ndata:  "n": 1.10}\n\n', use_inner_text=False
    )
    await expect(page.locator("#event-data")).to_have_text('{"text": "Größe",\n "n": 1.10}', use_inner_text=False)
    await expect(page.locator("#audience")).to_contain_text("news: 2 listening now")
    await expect(page.locator("#audience")).to_contain_text("public.weather: 1 listening now")
    [another] = await listen(server, "news")  # while somebody looks
    await expect(page.locator("#audience")).to_contain_text("news: 3 listening now")

    await page.get_by_role("button", name="Send a test to me").click()
    await expect(page.locator("#test-state")).to_have_text(re.compile(r"Arrived: event 1 of type alert, \d+ ms after"))
    await expect(page.locator("#test-data")).to_have_text('{"text": "Größe",\n "n": 1.10}', use_inner_text=False)
    assert [row[1] for row in stored(sqlite_site)] == [f"user.{await own_pk(sqlite_site)}"]

    await page.get_by_role("button", name="Send now…").click()
    await expect(page.locator("h1")).to_have_text("Send this now?")
    await expect(page.get_by_role("row", name="news")).to_contain_text("3")
    await another.close()
    await expect(page.get_by_role("row", name="news")).to_contain_text("2")
    await page.get_by_role("button", name="Send to 3 connections now").click()
    await expect(page.locator(".messagelist")).to_have_text("Sent. 3 connections were open.")
    await expect(page.locator("#served")).to_have_text("Connections served: 3.")
    await expect(page.get_by_role("link", name="2", exact=True)).to_be_visible()
    await expect(page.get_by_role("button", name="Send now…")).to_have_count(0)
    for client in clients:
        await client.read_until(1)
    assert [(event.event, event.data) for event in reader.events] == [("alert", '{"text": "Größe",\n "n": 1.10}')]
    assert [row[1:3] for row in stored(sqlite_site)[1:]] == [("news", "alert"), ("public.weather", "alert")]

    await page.get_by_role("button", name="Use again").click()
    await expect(page.get_by_label("Payload", exact=True)).to_have_value('{"text": "Größe",\n "n": 1.10}')
    assert tabs.complaints == []
    leave_all()


async def own_pk(site: Site) -> int:
    [(pk,)] = await asyncio.to_thread(site.execute, "SELECT id FROM auth_user WHERE username = 'editor'")
    return int(pk)


async def test_broken_json_is_told_while_it_is_typed_and_one_can_jump_there(sqlite_site: Site, tabs: Tabs) -> None:
    page = await open_desk(tabs, sqlite_site.serve())
    await write(page, payload='{"😀": 1,\n "b" 2}')
    await expect(page.locator("#payload-problem")).to_be_hidden()
    await page.get_by_label("JSON").check()
    await expect(page.locator("#payload-problem")).to_have_text(
        "This is not JSON: Expecting ':' delimiter, in line 2, column 6."
    )
    await expect(page.get_by_role("button", name="Send a test to me")).to_be_disabled()
    await page.get_by_role("button", name="Go to the mistake").click()
    payload = page.get_by_label("Payload", exact=True)
    await expect(payload).to_be_focused()
    await expect(payload).to_have_attribute("aria-invalid", "true")
    await page.keyboard.type(": 2")  # in place of the selected character
    await expect(page.locator("#payload-problem")).to_be_visible()  # there is one 2 too many now
    await payload.fill('{"😀": 1,\n "b": 2}')
    await expect(page.locator("#payload-problem")).to_be_hidden()
    await expect(page.locator("#wire")).to_contain_text("😀")
    assert tabs.complaints == []


async def test_channels_are_suggested_and_taken_and_removed_by_keyboard(sqlite_site: Site, tabs: Tabs) -> None:
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
    await expect(page.locator("#channels-problem")).to_contain_text("“bad!name” cannot be a channel's name")
    await page.get_by_label("Channels").focus()
    await page.keyboard.press("Backspace")
    await expect(page.locator(".chips li")).to_have_text([re.compile("news.local")])
    await expect(page.locator("#channels-problem")).to_be_hidden()
    await page.keyboard.type("weather")  # not taken yet, and saved all the same
    await page.get_by_label("Title").fill("x")
    await page.get_by_label("Payload", exact=True).fill("x")
    await page.get_by_role("button", name="Remove news.local").click()
    await page.get_by_role("button", name="Save draft").click()
    await expect(page.locator(".messagelist")).to_have_text("Saved as a draft. Nothing has been sent.")
    assert sqlite_site.execute("SELECT channels FROM streams_broadcast") == [('["weather"]',)]
    assert tabs.complaints == []


async def test_what_is_wrong_is_shown_and_nothing_is_lost(sqlite_site: Site, tabs: Tabs) -> None:
    page = await open_desk(tabs, sqlite_site.serve())
    await write(page, can_be_sent=False, title="", event="stream-reset", payload="still here")
    await page.get_by_role("button", name="Save draft").click()
    await expect(page.locator("#title-problem")).to_contain_text("Give it a title")
    await expect(page.locator("#event-problem")).to_contain_text("does not begin with “stream-”")
    await expect(page.get_by_label("Title")).to_be_focused()
    await page.keyboard.type("x")
    await expect(page.locator("#title-problem")).to_be_hidden()
    await expect(page.get_by_label("Payload", exact=True)).to_have_value("still here")
    await expect(page.locator(".chips li")).to_have_count(1)


async def test_changes_are_not_left_behind_without_a_question(sqlite_site: Site, tabs: Tabs) -> None:
    page = await open_desk(tabs, sqlite_site.serve())
    asked: list[str] = []

    async def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        await dialog.dismiss()

    page.on("dialog", stay)
    await write(page)
    await expect(page.locator("#unsaved")).to_have_text("There are changes that have not been saved.")
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
    await page.get_by_role("button", name="Send, although nobody listens now").dblclick()
    await expect(page.locator("#served")).to_be_visible()
    assert [row[:2] for row in stored(sqlite_site)] == [(1, "news")]


async def test_of_several_requests_to_send_at_once_one_sends(site: Site, tabs: Tabs) -> None:
    server = site.serve()
    page = await open_desk(tabs, server)
    for sent in range(1, 4):
        await write(page)
        await page.get_by_role("button", name="Send now…").click()
        token = await page.locator("#confirm input[name=csrfmiddlewaretoken]").get_attribute("value")
        post = {"form": {"csrfmiddlewaretoken": str(token), "revision": "1"}}
        answers = await asyncio.gather(
            *(page.request.post(page.url, **post) for _ in range(5))  # type: ignore[arg-type]
        )
        assert {answer.status for answer in answers} == {200}
        assert len(stored(site)) == sent
        assert site.execute("SELECT count(*) FROM django_admin_log WHERE change_message LIKE 'Sent %'") == [(sent,)]
        await page.goto(f"{server.url}{DESK}add/")


async def test_every_page_of_the_desk_obeys_a_strict_content_security_policy(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_desk(tabs, server)
    await write(page)
    await page.get_by_role("button", name="Save draft").click()
    await expect(page.locator(".messagelist")).to_be_visible()
    for path in ("", "add/", "1/change/", "1/schedule/", "1/send/"):
        await fits(tabs, f"{server.url}{DESK}{path}")
    await page.goto(f"{server.url}{DESK}1/send/")
    await page.get_by_role("button", name="Send, although nobody listens now").click()
    await expect(page.locator("#served")).to_be_visible()
    await fits(tabs, page.url)
    assert tabs.complaints == []


async def test_space_behind_a_type_as_phones_add_it_is_none_of_it(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_desk(tabs, server)
    await write(page, event="alert ")
    await page.get_by_role("button", name="Send a test to me").click()
    await expect(page.locator("#test-state")).to_contain_text("Arrived: event 1 of type alert")
    await page.get_by_label("Type").fill("message ")
    await expect(page.locator("#wire")).to_have_text("id: 2\ndata: No trains.\n\n", use_inner_text=False)
    await expect(page.locator("#typed")).to_be_hidden()


async def test_counts_that_are_not_whole_are_said_to_be_so(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    finish(sqlite_site.script(CROWDED_PROCESS))
    page = await open_desk(tabs, server)
    await write(page, channels="quiet")
    await expect(page.locator("#audience")).to_contain_text("quiet: not known how many listen")
    await expect(page.locator("#audience")).to_contain_text("there may be more connections than are counted here")
    await page.get_by_role("button", name="Send now…").click()
    async with page.expect_response(re.compile("audience")):
        pass  # what the script writes then
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


async def test_two_people_send_the_same_draft_once(sqlite_site: Site, tabs: Tabs, chromium: Browser) -> None:
    server = sqlite_site.serve()
    one = await open_desk(tabs, server)
    await write(one)
    await one.get_by_role("button", name="Send now…").click()
    context = await chromium.new_context()
    colleagues = Tabs(context)
    await colleagues.log_in(server, "colleague", **STAFF)
    two = await colleagues.open(one.url)
    await one.get_by_role("button", name="Send, although nobody listens now").click()
    await expect(one.locator("#served")).to_be_visible()
    await two.get_by_role("button", name="Send, although nobody listens now").click()
    await expect(two.locator(".messagelist")).to_contain_text(
        re.compile(r"This broadcast was sent already, at .* by editor\.")
    )
    await expect(two.locator("#served")).to_be_visible()
    assert len(stored(sqlite_site)) == 1
    await context.close()


async def test_two_people_edit_the_same_draft(sqlite_site: Site, tabs: Tabs, chromium: Browser) -> None:
    server = sqlite_site.serve()
    one = await open_desk(tabs, server)
    await write(one)
    await one.get_by_role("button", name="Save draft").click()
    await expect(one.locator(".messagelist")).to_be_visible()
    context = await chromium.new_context()
    colleagues = Tabs(context)
    await colleagues.log_in(server, "colleague", **STAFF)
    two = await colleagues.open(one.url)
    await one.get_by_label("Payload", exact=True).fill("one")
    await one.get_by_role("button", name="Save draft").click()
    await expect(one.locator("#unsaved")).to_be_empty()
    await two.get_by_label("Payload", exact=True).fill("two")
    await two.get_by_role("button", name="Send now…").click()
    await expect(two.get_by_role("alert").first).to_contain_text("Somebody has changed this broadcast meanwhile.")
    await expect(two.get_by_label("Payload", exact=True)).to_have_value("two")
    assert sqlite_site.execute("SELECT payload, state FROM streams_broadcast") == [("one", "draft")]
    await two.get_by_role("button", name="Save mine as a new draft").click()
    await expect(two.locator(".messagelist")).to_have_text("Saved as a draft. Nothing has been sent.")
    assert sqlite_site.execute("SELECT payload FROM streams_broadcast ORDER BY id") == [("one",), ("two",)]
    await context.close()


async def test_scheduled_goes_out_while_one_watches(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(POLL_SECONDS=0.3).serve(TIME_ZONE="Asia/Shanghai")
    [client] = await listen(server, "news")
    page = await open_desk(tabs, server)
    await write(page)
    await page.get_by_role("button", name="Schedule…").click()
    await expect(page.locator("#send_at-help")).to_contain_text("In the time zone Asia/Shanghai (now UTC+08:00).")
    await page.get_by_label("Send at").fill("2001-01-01T00:00")
    await page.get_by_role("button", name="Schedule", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("in the past")
    await page.get_by_label("Send at").fill("2099-01-01T08:00")
    await page.get_by_role("button", name="Schedule", exact=True).click()
    await expect(page.locator("main")).to_contain_text("Goes out at 2099-01-01 08:00 CST")
    await expect(page.locator("main")).to_contain_text("in UTC it is 2099-01-01 00:00")
    assert client.events == []
    sqlite_site.execute("UPDATE streams_broadcast SET send_at = '2020-01-01 00:00:00'")  # the time has come
    await client.read_until(1)
    assert [event.data for event in client.events] == ["No trains."]
    await expect(page.locator(".state")).to_have_text("sent")
    await expect(page.locator("main")).to_contain_text("by editor")
    [complaint] = tabs.complaints  # of the time in the past
    assert "422" in complaint
    leave_all()


async def test_browsers_own_time_is_told_where_it_is_another(sqlite_site: Site, chromium: Browser) -> None:
    server = sqlite_site.serve(TIME_ZONE="Asia/Shanghai")
    context = await chromium.new_context(timezone_id="America/New_York", locale="en-GB")
    tabs = Tabs(context)
    page = await open_desk(tabs, server)
    await write(page)
    await page.get_by_role("button", name="Schedule…").click()
    await page.get_by_label("Send at").fill("2099-07-01T08:00")
    await expect(page.locator("#elsewhere")).to_have_text(
        re.compile(r"That is .*30.*(20:00|8:00 PM).*America/New_York")
    )
    assert tabs.complaints == []
    await context.close()


async def test_scheduled_is_taken_back_and_cancelled(sqlite_site: Site, tabs: Tabs) -> None:
    page = await open_desk(tabs, sqlite_site.serve())
    await write(page)
    for button, state in (("Back to draft", "draft"), ("Cancel it", "cancelled")):
        await page.get_by_role("button", name="Schedule…").click()
        await expect(page.locator("main")).to_contain_text("No process streams right now.")
        await page.get_by_label("Send at").fill("2099-01-01T08:00")
        await page.get_by_role("button", name="Schedule", exact=True).click()
        await page.get_by_role("button", name=button).click()
        await expect(page.locator(".messagelist")).to_be_visible()
        assert sqlite_site.execute("SELECT state FROM streams_broadcast") == [(state,)]
    await expect(page.locator("main")).to_contain_text("It was cancelled, and never sent.")


PAGES = {"list": "", "compose": "add/", "draft": "1/change/", "send": "1/send/", "schedule": "1/schedule/"}


# Without each permission: the pages that are refused, and the button that is not there.
MISSING = {
    "add_broadcast": ({"compose"}, None),
    "change_broadcast": (set(), "Save draft"),
    "send_broadcast": ({"send"}, "Send now…"),
    "schedule_broadcast": ({"schedule"}, "Schedule…"),
    "delete_broadcast": (set(), "Delete"),
}


async def test_without_each_permission_in_turn(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    await asyncio.to_thread(finish, sqlite_site.script(MAKE_DRAFT))
    page = await tabs.context.new_page()
    for missing, (refused, absent) in MISSING.items():
        held = {"view_broadcast", *MISSING} - {missing}
        await log_in_with(tabs, sqlite_site, server, *sorted(held))
        for name, path in PAGES.items():
            answer = await page.goto(f"{server.url}{DESK}{path}")
            assert answer is not None
            assert (answer.status == 403) == (name in refused), (missing, name, answer.status)
        await page.goto(f"{server.url}{DESK}1/change/")
        for _, button in MISSING.values():
            if button is not None:
                await expect(page.get_by_text(button, exact=True)).to_have_count(0 if button == absent else 1)


MAKE_DRAFT = """
from streams.models import Broadcast
Broadcast.objects.create(title="Night works", channels=["news"], payload="No trains.")
"""


async def test_who_may_only_look_sees_the_message_and_no_button(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    await asyncio.to_thread(finish, sqlite_site.script(MAKE_DRAFT))
    await log_in_with(tabs, sqlite_site, server, "view_broadcast")
    page = await tabs.open(f"{server.url}{DESK}1/change/")
    await expect(page.locator("#wire")).to_contain_text("data: No trains.")
    await expect(page.locator(".streams button, .streams .button")).to_have_count(0)
    assert tabs.complaints == []


async def test_whole_flow_without_javascript(sqlite_site: Site, chromium: Browser) -> None:
    server = sqlite_site.serve()
    context = await chromium.new_context(java_script_enabled=False)
    tabs = Tabs(context)
    page = await open_desk(tabs, server)
    assert "A test needs JavaScript." in await page.content()
    await page.get_by_label("Title").fill("Plain")
    await page.get_by_label("Channels").fill("news, weather")
    await page.get_by_label("Payload", exact=True).fill("a\nb")
    await page.get_by_role("button", name="Send now…").click()
    await expect(page.locator("#wire")).to_have_text("id: 1\ndata: a\ndata: b\n\n", use_inner_text=False)
    await page.get_by_role("button", name="Send, although nobody listens now").click()
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
    await expect(page.locator("#wire")).to_contain_text("aU+202Eb")
    await page.get_by_role("button", name="Send a test to me").click()
    await expect(page.locator("#test-data")).to_contain_text("aU+202Eb")
    await page.get_by_role("button", name="Send now…").click()
    await expect(page.locator("#wire")).to_contain_text(HOSTILE[0])
    await page.get_by_role("button", name="Send, although nobody listens now").click()
    await expect(page.locator("#served")).to_be_visible()
    await expect(page.locator("#wire .invisible")).to_have_text("U+202E")
    await fits_its_window(page)
    await page.goto(f"{server.url}{DESK}")
    await expect(page.locator("main")).to_contain_text(HOSTILE[1])
    assert await page.evaluate("window.hacked") is None
    assert tabs.complaints == []


async def test_desk_at_360_pixels_needs_no_scrolling_sideways(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_desk(tabs, server)
    await page.set_viewport_size({"width": 360, "height": 740})
    await write(page, channels="news a.rather.long.name.of.a.channel.that.somebody.has.thought.of", payload="x" * 500)
    await expect(page.locator("#wire")).to_be_visible()
    for button in ("Send now…", "Send, although nobody listens now"):
        await fits_its_window(page)
        await page.get_by_role("button", name=button).click()
        await expect(page.locator("#wire")).to_be_visible()
    await fits_its_window(page)


async def test_own_channel_that_the_policy_refuses_is_said(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(POLICY="streams.policies.BasePolicy").serve()
    page = await open_desk(tabs, server)
    await page.get_by_label("Payload", exact=True).fill("x")
    await page.get_by_role("button", name="Send a test to me").click()
    await expect(page.locator("#test-state")).to_contain_text("cannot be read: the site's policy refuses it")
    assert stored(sqlite_site) == []


async def test_server_that_is_away_is_said_and_the_page_goes_on_when_it_is_back(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_desk(tabs, server)
    await write(page)
    await expect(page.locator("#audience")).to_contain_text("news: 0 listening now")
    server.stop()
    await expect(page.locator("#audience")).to_contain_text("The server cannot be reached.")
    server.start()
    await expect(page.locator("#audience")).to_contain_text("news: 0 listening now")
    await page.get_by_role("button", name="Save draft").click()
    await expect(page.locator(".messagelist")).to_be_visible()
