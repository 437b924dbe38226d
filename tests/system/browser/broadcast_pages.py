"""Helpers for the browser tests of broadcasts."""

from __future__ import annotations

from typing import Any

from playwright.async_api import Page, expect

from tests.support.clients import StreamClient
from tests.support.sites import Server, Site
from tests.system.browser.conftest import Tabs

DESK = "/admin/streams/broadcast/"


STAFF = {"is_staff": True, "is_superuser": True}


async def open_desk(tabs: Tabs, server: Server, path: str = "add/") -> Page:
    await tabs.log_in(server, "editor", **STAFF)
    return await tabs.open(f"{server.url}{DESK}{path}")


async def write(page: Page, *, can_be_sent: bool = True, **fields: str) -> None:
    """Fill in the form as a user would."""
    values = {"title": "Night works", "channels": "news", "event": "message", "payload": "No trains.", **fields}
    await page.get_by_label("Title").fill(values["title"])
    for name in values["channels"].split():
        await page.get_by_label("Channels").fill(name)
        await page.keyboard.press("Enter")
    await page.get_by_label("Event type").fill(values["event"])
    await page.get_by_label("Content", exact=True).fill(values["payload"])
    # The preview appears after a delay and moves the buttons below it. Wait for it before the next click.
    if can_be_sent:
        await expect(page.locator("#encoded")).not_to_be_empty()


async def listen(server: Server, *channels: str) -> list[StreamClient]:
    clients = [await StreamClient(server.port, f"/events/{channel}/").connect() for channel in channels]
    for client in clients:
        await client.read_control(1)
    return clients


def stored(site: Site) -> list[Any]:
    return site.execute("SELECT position, channel, event, data FROM streams_message ORDER BY position")
