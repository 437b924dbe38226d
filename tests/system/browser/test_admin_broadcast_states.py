"""Broadcasts in Chromium: two users at the same time, scheduling, and permissions."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Browser, expect

from tests.support.clients import leave_all
from tests.support.sites import Site, finish
from tests.system.browser.broadcast_pages import DESK, STAFF, listen, open_desk, stored, write
from tests.system.browser.conftest import Tabs
from tests.system.browser.permissions import log_in_with

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_two_users_send_draft_once(sqlite_site: Site, tabs: Tabs, chromium: Browser) -> None:
    server = sqlite_site.serve()
    one = await open_desk(tabs, server)
    await write(one)
    await one.get_by_role("button", name="Send now…").click()
    context = await chromium.new_context()
    colleagues = Tabs(context)
    await colleagues.log_in(server, "colleague", **STAFF)
    two = await colleagues.open(one.url)
    await one.get_by_role("button", name="Send, although no client is connected").click()
    await expect(one.locator("#reached")).to_be_visible()
    await two.get_by_role("button", name="Send, although no client is connected").click()
    await expect(two.locator(".messagelist")).to_contain_text(
        re.compile(r"This broadcast was already sent, at .* by editor\.")
    )
    await expect(two.locator("#reached")).to_be_visible()
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
    await one.get_by_label("Content", exact=True).fill("one")
    await one.get_by_role("button", name="Save draft").click()
    await expect(one.locator("#unsaved")).to_be_empty()
    await two.get_by_label("Content", exact=True).fill("two")
    await two.get_by_role("button", name="Send now…").click()
    await expect(two.get_by_role("alert").first).to_contain_text("Another user has changed this broadcast.")
    await expect(two.get_by_label("Content", exact=True)).to_have_value("two")
    assert sqlite_site.execute("SELECT payload, state FROM streams_broadcast") == [("one", "draft")]
    await two.get_by_role("button", name="Save my version as a new draft").click()
    await expect(two.locator(".messagelist")).to_have_text("Saved as a draft. Nothing has been sent.")
    assert sqlite_site.execute("SELECT payload FROM streams_broadcast ORDER BY id") == [("one",), ("two",)]
    await context.close()


async def test_scheduled_goes_out_while_one_watches(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(POLL_SECONDS=0.3).serve(TIME_ZONE="Asia/Shanghai")
    [client] = await listen(server, "news")
    page = await open_desk(tabs, server)
    await write(page)
    await page.get_by_role("button", name="Schedule…").click()
    await expect(page.locator("#send_at-help")).to_contain_text("Time zone: Asia/Shanghai (now UTC+08:00).")
    await page.get_by_label("Send at").fill("2001-01-01T00:00")
    await page.get_by_role("button", name="Schedule", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("in the past")
    await page.get_by_label("Send at").fill("2099-01-01T08:00")
    await page.get_by_role("button", name="Schedule", exact=True).click()
    await expect(page.locator("main")).to_contain_text("It will be sent at 2099-01-01 08:00 CST")
    await expect(page.locator("main")).to_contain_text("In UTC, it is 2099-01-01 00:00")
    assert client.events == []
    sqlite_site.execute("UPDATE streams_broadcast SET send_at = '2020-01-01 00:00:00'")  # the broadcast is due now
    await client.read_until(1)
    assert [event.data for event in client.events] == ["No trains."]
    await expect(page.locator(".state")).to_have_text("sent")
    await expect(page.locator("main")).to_contain_text("by editor")
    [complaint] = tabs.complaints  # caused by the time in the past
    assert "422" in complaint
    leave_all()


async def test_local_time_of_browser_is_shown(sqlite_site: Site, chromium: Browser) -> None:
    server = sqlite_site.serve(TIME_ZONE="Asia/Shanghai")
    context = await chromium.new_context(timezone_id="America/New_York", locale="en-GB")
    tabs = Tabs(context)
    page = await open_desk(tabs, server)
    await write(page)
    await page.get_by_role("button", name="Schedule…").click()
    await page.get_by_label("Send at").fill("2099-07-01T08:00")
    await expect(page.locator("#local-time")).to_have_text(
        re.compile(r"That is .*30.*(20:00|8:00 PM).*America/New_York")
    )
    assert tabs.complaints == []
    await context.close()


async def test_scheduled_is_taken_back_and_cancelled(sqlite_site: Site, tabs: Tabs) -> None:
    page = await open_desk(tabs, sqlite_site.serve())
    await write(page)
    for button, state in (("Change back to draft", "draft"), ("Cancel broadcast", "cancelled")):
        await page.get_by_role("button", name="Schedule…").click()
        await expect(page.locator("main")).to_contain_text("No process is serving streams right now.")
        await page.get_by_label("Send at").fill("2099-01-01T08:00")
        await page.get_by_role("button", name="Schedule", exact=True).click()
        await page.get_by_role("button", name=button).click()
        await expect(page.locator(".messagelist")).to_be_visible()
        assert sqlite_site.execute("SELECT state FROM streams_broadcast") == [(state,)]
    await expect(page.locator("main")).to_contain_text("This broadcast was cancelled. It was never sent.")


PAGES = {"list": "", "compose": "add/", "draft": "1/change/", "send": "1/send/", "schedule": "1/schedule/"}


# For each missing permission: the refused pages and the absent button.
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
            response = await page.goto(f"{server.url}{DESK}{path}")
            assert response is not None
            assert (response.status == 403) == (name in refused), (missing, name, response.status)
        await page.goto(f"{server.url}{DESK}1/change/")
        for _, button in MISSING.values():
            if button is not None:
                await expect(page.get_by_text(button, exact=True)).to_have_count(0 if button == absent else 1)


MAKE_DRAFT = """
from streams.models import Broadcast
Broadcast.objects.create(title="Night works", channels=["news"], payload="No trains.")
"""


async def test_viewer_sees_message_without_buttons(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    await asyncio.to_thread(finish, sqlite_site.script(MAKE_DRAFT))
    await log_in_with(tabs, sqlite_site, server, "view_broadcast")
    page = await tabs.open(f"{server.url}{DESK}1/change/")
    await expect(page.locator("#encoded")).to_contain_text("data: No trains.")
    await expect(page.locator(".streams button, .streams .button")).to_have_count(0)
    assert tabs.complaints == []
