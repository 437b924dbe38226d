"""Helpers for the browser tests of the live monitor."""

from __future__ import annotations

import asyncio
import re

from playwright.async_api import Page, Route, expect

from streams import NewMessage, publish, publish_many
from tests.support.sites import Server
from tests.system.browser.conftest import Tabs

MONITOR = "/admin/streams/monitor/"


TYPES = re.compile(r"/monitor/types/")


HOSTILE = [
    "<script>window.hacked = 1</script>",
    "</pre></li></ol></template><img src=x onerror='window.hacked = 1'>",
    "{{ constructor.constructor('window.hacked=1')() }} {% load x %} ${window.hacked=1}",
    '"><svg onload=window.hacked=1> \'"&lt;',
]


def publish_each(*lines: str) -> None:
    """Publish the lines in order. Each has the form `channel type data`."""
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
    """Hold requests for event types until the second event is set. The first request sets the first event."""
    requested, release = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        requested.set()
        await release.wait()
        await route.continue_()

    await page.route(TYPES, hold)
    return requested, release


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
