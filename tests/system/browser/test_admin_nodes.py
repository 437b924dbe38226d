"""The admin's list of processes in Chromium: running processes, ended processes, and the data of each."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time

import pytest
from playwright.async_api import Page, expect

from streams import NewMessage, publish_many
from tests.support.clients import StreamClient
from tests.support.sites import Server, Site, finish
from tests.system.browser.conftest import Tabs
from tests.system.browser.permissions import fits, log_in_with

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

NODES = "/admin/streams/node/"


def publish_many_to(channel: str, count: str) -> None:
    publish_many([NewMessage(channel, "x") for _ in range(int(count))])


def make_node(host: str, channels: str, problem: str) -> None:
    """Create a row as another process would write it."""
    from django.utils import timezone

    from streams.models import Node

    now = timezone.now()
    counts = json.loads(channels)
    Node.objects.create(
        id=host[:32],
        host=host,
        pid=1,
        started_at=now,
        seen_at=now,
        connections=sum(counts.values()),
        channels=counts,
        notifier="elsewhere.<b>Bad</b>Notifier",
        notifier_problem=problem,
        samples=[[int(time.time()), 7, 0]],
    )


async def open_page(tabs: Tabs, server: Server) -> Page:
    await tabs.log_in(server, "boss", is_staff=True, is_superuser=True)
    return await tabs.open(f"{server.url}{NODES}")


async def test_processes_appear_with_their_streams_and_fade_when_they_are_killed(sqlite_site: Site, tabs: Tabs) -> None:
    sqlite_site.settings(PRESENCE_SECONDS=1)
    one, two = sqlite_site.serve(), sqlite_site.serve()
    page = await open_page(tabs, one)
    await expect(page.locator("#none")).to_contain_text("No process is serving streams right now.")
    await expect(page.locator("#table")).to_be_hidden()

    clients = [await StreamClient(port, "/events/news/").connect() for port in (one.port, two.port, two.port)]
    clients.append(await StreamClient(two.port, "/events/public.x/").connect())
    rows = page.locator("#nodes tr")
    await expect(rows).to_have_count(2)
    first, second = rows.filter(has_text=str(one.pid)), rows.filter(has_text=str(two.pid))
    await expect(first).to_contain_text("(this process)")
    await expect(second.get_by_text("(this process)")).to_be_hidden()
    await expect(second.locator("[data-field=connections]")).to_have_text("3")
    await expect(second.locator("[data-channels]")).to_have_text("news 2, public.x 1")
    await expect(second.locator("[data-field=notifier]")).to_have_text("LocalNotifier")
    await expect(second.locator(".state")).to_have_text("listening")
    await expect(page.locator("#summary")).to_have_text("4 connections in 2 processes.")
    await expect(page.locator("#connections-text")).to_contain_text("4 now")
    await expect(page.locator("#connections rect")).not_to_have_count(0)

    finish(sqlite_site.call(publish_many_to, "news", 500))
    await expect(page.locator("#rates-text")).to_have_text(re.compile(r"maximum [1-9][\d.,]*"))

    two.stop(signal.SIGKILL)
    await expect(second).to_have_count(0)
    await expect(rows).to_have_count(1)
    await expect(page.locator("#summary")).to_have_text("1 connection in 1 process.")
    for client in clients:
        with contextlib.suppress(OSError):  # connections of the killed process
            await client.close()
    await expect(page.locator("#none")).to_be_visible()
    await expect(page.locator("#updated")).to_contain_text("Updated at")
    assert tabs.complaints == []


async def test_page_says_when_it_is_not_renewed_and_goes_on_by_itself(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(PRESENCE_SECONDS=1).serve()
    page = await open_page(tabs, server)
    server.stop(signal.SIGKILL)
    await expect(page.locator("#updated")).to_have_text("Not updated. The server cannot be reached.")
    server.start()
    await expect(page.locator("#updated")).to_contain_text("Updated at")
    await tabs.context.clear_cookies()
    await expect(page.locator("#updated")).to_contain_text("you might have been logged out.")


async def test_what_processes_say_stays_text_also_after_a_renewal(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(PRESENCE_SECONDS=60).serve()
    hostile = "</script><img src=x onerror=window.hacked=1>\u202e"
    finish(sqlite_site.call(make_node, hostile, json.dumps({f"{hostile}{{{{ 1 }}}}": 7}), hostile))
    page = await open_page(tabs, server)
    shown = hostile.replace("\u202e", "U+202E")
    row = page.locator("#nodes tr")
    for _ in range(2):
        await expect(row.locator("[data-field=process]")).to_have_text(f"{shown}:1")
        await expect(row.locator("[data-channels]")).to_contain_text(f"{shown}{{{{ 1 }}}}")
        await expect(row.locator(".state")).to_have_text(f"problem: {shown}")
        await expect(row.locator("[data-field=notifier]")).to_have_text("b>Bad</b>Notifier".replace("b>", "<b>", 1))
        assert await page.evaluate("window.hacked") is None
        async with page.expect_response("**/node/data/"):
            await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert tabs.complaints == []


async def test_each_process_is_shown_to_those_alone_who_may_view_processes(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.serve()
    await log_in_with(tabs, sqlite_site, server, "view_message", "view_channelsettings")
    page = await tabs.open(f"{server.url}/admin/")
    await expect(page.get_by_role("link", name="Processes")).to_have_count(0)
    await page.goto(f"{server.url}{NODES}")
    await expect(page.locator("body")).to_contain_text("403 Forbidden")
    await log_in_with(tabs, sqlite_site, server, "view_node")
    await page.goto(f"{server.url}{NODES}")
    await expect(page.locator("#summary")).to_have_text("0 connections in 0 processes.")


async def test_page_fits_a_narrow_window_and_a_strict_policy(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(PRESENCE_SECONDS=60).serve()
    finish(sqlite_site.call(make_node, "h" * 200, json.dumps({"c" * 99: 3}), "p" * 255))
    await tabs.log_in(server, "boss", is_staff=True, is_superuser=True)
    await fits(tabs, f"{server.url}{NODES}")
    assert tabs.complaints == []
