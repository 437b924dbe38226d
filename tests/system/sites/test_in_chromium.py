"""The pages of Streams and their scripts in Chromium, on sites whose settings could break them."""

from __future__ import annotations

import re
from pathlib import Path

import django
import pytest
from playwright.async_api import expect

from tests.system.browser.broadcast_pages import write
from tests.system.browser.conftest import Tabs
from tests.system.sites.conftest import Start
from tests.system.sites.running import Running

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

# With a strict Content-Security-Policy and hashed static files, by django-csp and by Django 6; and below a prefix.
SITES = ["policy", *(["policy_of_django"] if django.VERSION >= (6, 0) else []), "prefix"]


@pytest.fixture(scope="module", params=SITES)
def running(request: pytest.FixtureRequest, start: Start, static_root: Path) -> Running:
    if request.param == "prefix":
        return start("prefix", prefix="/app", pages="/en")
    return start(request.param, TEST_STATIC_ROOT=str(static_root))


async def log_in(running: Running, tabs: Tabs) -> None:
    await tabs.log_in(running.server, "root", is_staff=True, is_superuser=True)


async def test_page_reads_a_stream(running: Running, tabs: Tabs) -> None:
    page = await tabs.open(f"{running.url}{running.prefix}{running.pages}/page/?channel=public.read")
    await page.evaluate("""() => {
        window.read = [];
        const source = new EventSource(document.getElementById("stream").dataset.url);
        source.onmessage = event => read.push(event.data);
        return new Promise(resolve => { source.onopen = resolve; });
    }""")
    await running.publish("public.read", "one", "two")
    await page.wait_for_function("read.length == 2")
    assert await page.evaluate("read") == ["one", "two"]
    assert tabs.complaints == []


async def test_live_monitor_shows_events(running: Running, tabs: Tabs) -> None:
    await log_in(running, tabs)
    page = await tabs.open(f"{running.url}{running.admin}/streams/monitor/?channel=public.watched")
    await expect(page.get_by_text("Live", exact=True)).to_be_visible()
    await running.publish("public.watched", "shown")
    await expect(page.get_by_text("shown", exact=True)).to_be_visible()
    assert tabs.complaints == []


async def test_broadcast_is_previewed_and_tested(running: Running, tabs: Tabs) -> None:
    """The page calls its JSON views, and opens the stream of the user's own channel."""
    await log_in(running, tabs)
    page = await tabs.open(f"{running.url}{running.admin}/streams/broadcast/add/")
    await write(page, channels="public.sent", payload="Hello.")
    await page.get_by_role("button", name="Send a test message to me").click()
    await expect(page.locator("#test-state")).to_have_text(re.compile("Received event"))
    assert tabs.complaints == []


@pytest.mark.parametrize(
    "path", ["broadcast/", "message/", "channelsettings/", "channelsettings/public.x/change/", "node/"]
)
async def test_other_pages_need_nothing_inline(running: Running, tabs: Tabs, path: str) -> None:
    await log_in(running, tabs)
    await tabs.open(f"{running.url}{running.admin}/streams/{path}")
    assert tabs.complaints == []


async def test_policy_is_sent_with_streams_and_pages(running: Running) -> None:
    stream = await running.stream("public.headers")
    async with running.browser() as browser:
        page = await browser.get(f"{running.prefix}{running.pages}/page/", params={"channel": "public.headers"})
    for headers in (stream.response_headers, page.headers):
        policy = headers.get("content-security-policy", "")
        assert ("connect-src 'self'" in policy) == (not running.prefix)


async def test_page_of_the_api_brings_its_own_policy(running: Running, tabs: Tabs) -> None:
    await log_in(running, tabs)
    page = await tabs.open(f"{running.url}{running.prefix}/api/docs/")
    await expect(page.get_by_text("/channels/{channel}/messages/").first).to_be_visible()
    assert tabs.complaints == []
