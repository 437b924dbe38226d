"""The admin's channel pages in Chromium: finding a channel, and changing its readers and its retention."""

from __future__ import annotations

import re
import urllib.error
import urllib.request

import pytest
from playwright.async_api import Page, expect

from streams import NewMessage, publish, publish_many
from streams.models import ChannelSettings
from tests.support.sites import Server, Site, finish
from tests.system.browser.conftest import Tabs
from tests.system.browser.permissions import fits, log_in_with

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

CHANNELS = "/admin/streams/channelsettings/"
HOSTILE = "</script><img src=x onerror='window.hacked=1'> {{ 7|add:7 }} \u202eabc"


def publish_to_each(*channels: str) -> None:
    publish_many([NewMessage(channel, f"to {channel}") for channel in channels])


def publish_long(text: str) -> None:
    publish("news", text + "x" * 200_000, event="<b>bold</b>")


def make_group(name: str) -> None:
    from django.contrib.auth.models import Group

    Group.objects.create(name=name)


def make_settings(channel: str, title: str) -> None:
    ChannelSettings.objects.create(channel=channel, title=title, access="staff")


def status(server: Server, channel: str) -> int:
    """Return the status code that an anonymous client gets for the channel's stream."""
    try:
        request = urllib.request.Request(f"{server.url}/events/{channel}/", method="HEAD")
        return int(urllib.request.urlopen(request, timeout=60).status)
    except urllib.error.HTTPError as refusal:
        return refusal.code


async def open_as_boss(tabs: Tabs, server: Server, path: str = "") -> Page:
    await tabs.log_in(server, "boss", is_staff=True, is_superuser=True)
    return await tabs.open(f"{server.url}{CHANNELS}{path}")


async def test_channel_is_found_and_opened_from_the_list(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_as_boss(tabs, server)
    await expect(page.locator(".streams .notice")).to_contain_text("There are no channels yet.")
    finish(sqlite_site.call(publish_to_each, *(f"user.{n}" for n in range(70)), "news"))
    await page.reload()
    await expect(page.locator(".streams tbody tr")).to_have_count(50)
    await page.get_by_role("link", name="Next page").click()
    await expect(page.locator(".streams tbody tr")).to_have_count(21)
    await page.get_by_label("Name starts with").fill("ne")
    await page.keyboard.press("Enter")
    await expect(page.locator(".streams tbody tr")).to_have_count(1)
    await page.get_by_role("link", name="news", exact=True).click()
    await expect(page.locator("h1, h2").filter(has_text="Channel news")).to_be_visible()
    await expect(page.locator("td.long")).to_have_text("to news")
    await page.get_by_role("link", name="Watch in live monitor").click()
    await expect(page.locator("#state")).to_have_text("Live")
    assert tabs.complaints == []


async def test_who_may_read_is_settled_and_obeyed_at_once(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    finish(sqlite_site.call(make_group, "Editors"))
    page = await open_as_boss(tabs, server, "room.1/change/")
    assert status(server, "room.1") == 403
    await expect(page.locator("#groups")).to_be_hidden()
    await page.get_by_label("Readers").select_option("public")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".messagelist")).to_contain_text("Saved. This takes effect within 1 s.")
    assert status(server, "room.1") == 200
    await expect(page.locator("dl.facts")).to_contain_text("everyone, by the channel's settings")

    await page.get_by_label("Readers").select_option("groups")
    await expect(page.locator("#groups")).to_be_visible()
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("#id_groups_error")).to_contain_text("Choose at least one group")
    await expect(page.locator("[role=alert]")).to_contain_text("Not saved.")
    assert status(server, "room.1") == 200
    await page.get_by_label("Editors").check()
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("dl.facts")).to_contain_text("staff with permission to view messages: Editors")
    assert status(server, "room.1") == 403

    await page.get_by_role("link", name="History of settings").click()
    await expect(page.locator("#change-history")).to_contain_text("Changed Readers and Groups.")
    complaints = [text for text in tabs.complaints if "422" not in text]
    assert complaints == []


async def test_retention_is_settled_from_a_list_or_as_a_number(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    page = await open_as_boss(tabs, server, "news/change/")
    other = page.get_by_label("Seconds")
    await expect(other).to_be_hidden()
    await page.get_by_label("Keep messages for").select_option(label="30 days")
    await page.get_by_label("Maximum number of messages").fill("500")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("dl.facts")).to_contain_text("30 days, at most 500 messages (own setting)")
    await page.get_by_label("Keep messages for").select_option("other")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("#id_keep_seconds_error")).to_contain_text("Enter the number of seconds")
    await expect(other).to_have_attribute("aria-invalid", "true")
    await expect(other).to_have_attribute("aria-describedby", re.compile("id_keep_seconds_error"))
    await other.fill("7200")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("dl.facts")).to_contain_text("2 hours, at most 500 messages (own setting)")
    await expect(other).to_have_value("7200")


async def test_change_that_another_has_made_meanwhile_is_shown_and_not_overwritten(
    sqlite_site: Site, tabs: Tabs
) -> None:
    server = sqlite_site.serve()
    one = await open_as_boss(tabs, server, "news/change/")
    other = await tabs.open(f"{server.url}{CHANNELS}news/change/")
    await other.get_by_label("Readers").select_option("staff")
    await other.get_by_role("button", name="Save").click()
    await expect(other.locator(".messagelist")).to_contain_text("Saved.")
    await one.get_by_label("Title").fill("My title")
    await one.get_by_role("button", name="Save").click()
    await expect(one.locator("[role=alert]")).to_contain_text("Another user has changed these settings")
    await expect(one.locator("#stored")).to_contain_text("Staff")
    await expect(one.get_by_label("Title")).to_have_value("My title")
    assert status(server, "news") == 403
    await one.get_by_label("Readers").select_option("staff")
    await one.get_by_role("button", name="Save").click()
    await expect(one.locator(".messagelist")).to_contain_text("Saved.")
    await expect(one.get_by_label("Title")).to_have_value("My title")
    assert status(server, "news") == 403


async def test_settings_are_reset_after_a_question(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    finish(sqlite_site.call(make_settings, "news", "A title"))
    page = await open_as_boss(tabs, server, "news/change/")
    assert status(server, "news") == 403
    await page.get_by_role("link", name="Reset to the site’s settings").click()
    await page.get_by_role("link", name="Go back").click()
    await expect(page.get_by_label("Title")).to_have_value("A title")
    await page.get_by_role("link", name="Reset to the site’s settings").click()
    await page.get_by_role("button", name="Reset to the site’s settings").click()
    await expect(page.locator(".messagelist")).to_contain_text("The site’s settings now apply to news.")
    await expect(page.get_by_label("Title")).to_have_value("")
    assert status(server, "news") == 200
    assert tabs.complaints == []


async def test_what_others_have_written_stays_text(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    finish(sqlite_site.call(make_settings, "news", HOSTILE))
    finish(sqlite_site.call(make_group, "Group </label><b onclick=x> \u202eabc"))
    finish(sqlite_site.call(publish_long, HOSTILE))
    page = await open_as_boss(tabs, server)
    await expect(page.locator(".streams tbody th").first).to_contain_text("{{ 7|add:7 }} U+202E")
    await page.goto(f"{server.url}{CHANNELS}news/change/")
    await expect(page.locator("td.long")).to_contain_text("</script><img src=x onerror='window.hacked=1'>")
    assert len(await page.locator("td.long").text_content() or "") < 1000
    await page.get_by_label("Readers").select_option("groups")
    await expect(page.locator("#groups")).to_contain_text("Group </label><b onclick=x> U+202Eabc")
    assert await page.evaluate("window.hacked") is None
    assert await page.locator(".streams b").count() == 0
    assert tabs.complaints == []


async def test_each_permission_shows_its_part_and_no_other(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    finish(sqlite_site.call(make_settings, "settled", "A title"))
    sqlite_site.manage("publish", "settled", "secret words")
    page = await tabs.open("about:blank")

    async def visit(path: str, *codenames: str) -> None:
        await log_in_with(tabs, sqlite_site, server, *codenames)
        await page.goto(f"{server.url}{path}")

    await visit(f"{CHANNELS}settled/change/", "view_message", "add_channelsettings", "delete_channelsettings")
    await expect(page.locator("body")).to_contain_text("403 Forbidden")

    await visit(f"{CHANNELS}settled/change/", "view_channelsettings")
    await expect(page.locator(".streams")).to_contain_text("To change them, you need the permission")
    await expect(page.locator("#settings")).to_have_count(0)
    await expect(page.locator(".streams")).not_to_contain_text("secret words")
    await expect(page.get_by_role("link", name="Watch in live monitor")).to_have_count(0)
    await expect(page.get_by_role("link", name="Reset to")).to_have_count(0)

    await visit(f"{CHANNELS}settled/change/", "change_channelsettings")
    await expect(page.get_by_role("button", name="Save")).to_be_visible()
    await expect(page.get_by_role("link", name="Reset to")).to_have_count(0)
    await page.goto(f"{server.url}{CHANNELS}unsettled/change/")
    await expect(page.get_by_role("button", name="Save")).to_be_visible()

    await visit(f"{CHANNELS}unsettled/change/", "view_channelsettings", "add_channelsettings")
    await expect(page.locator(".streams")).to_contain_text("To change them, you need the permission")
    await expect(page.get_by_role("button", name="Save")).to_have_count(0)

    await visit(f"{CHANNELS}settled/change/", "view_channelsettings", "delete_channelsettings")
    await expect(page.get_by_role("link", name="Reset to")).to_be_visible()


async def test_list_fits_beside_the_admins_navigation(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    finish(sqlite_site.call(make_settings, "score.match-1", "The match of the year"))
    finish(sqlite_site.call(publish_to_each, "score.match-1", "news"))
    page = await open_as_boss(tabs, server)
    await page.set_viewport_size({"width": 1180, "height": 800})
    table = page.get_by_role("region", name="Channels")
    assert await table.evaluate("table => table.scrollWidth - table.clientWidth") == 0


async def test_pages_fit_a_narrow_window_and_a_strict_policy(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    long = "x" * 99
    finish(sqlite_site.call(make_settings, long, "W" * 200))
    sqlite_site.manage("publish", long, "y" * 5000, "--event", "z" * 99)
    await tabs.log_in(server, "boss", is_staff=True, is_superuser=True)
    for path in ("", f"{long}/change/", f"{long}/delete/"):
        await fits(tabs, f"{server.url}{CHANNELS}{path}")
    assert tabs.complaints == []
