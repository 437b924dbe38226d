"""What every site must be able to do, with each package and feature that sites use."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import psutil
import pytest

from tests.system.sites.conftest import Start
from tests.system.sites.running import Running

pytestmark = pytest.mark.once

STREAMS = 20
MAX_THREADS = 15
MAX_CONNECTIONS = 3

SITES = {
    "prefix": {"name": "prefix", "prefix": "/app", "pages": "/en"},
    "caching": {"name": "caching"},
    "toolbar": {"name": "toolbar"},
    "observed": {"name": "observed", "app": "tests.system.sites.asgi_observed:application"},
    "policy": {"name": "policy"},
    "websockets": {"name": "websockets", "server": "daphne", "app": "tests.system.sites.asgi_websockets:application"},
    "accounts": {"name": "accounts", "migrate": True},
}


@pytest.fixture(scope="module", params=SITES)
def running(request: pytest.FixtureRequest, start: Start, static_root: Path) -> Running:
    return start(**SITES[request.param], TEST_STATIC_ROOT=str(static_root))


async def test_first_event_arrives_at_once(running: Running, channel: str) -> None:
    client = await running.stream(channel, **{"Accept-Encoding": "gzip, br"})
    sent = client.response_headers
    assert sent["content-type"] == "text/event-stream; charset=utf-8"
    assert sent["cache-control"] == "no-cache, no-transform"
    assert not {"content-encoding", "etag", "expires"} & sent.keys()
    await running.publish(channel, "first")
    assert [event.data for event in await client.read_until(1)] == ["first"]


async def test_reconnects_are_exact(running: Running, channel: str) -> None:
    """The client leaves in the middle of the stream, while messages are published."""
    lines = [str(number) for number in range(30)]
    client = await running.stream(channel)
    publishing = asyncio.create_task(running.publish(channel, *lines))
    while len(client.events) < len(lines):
        await client.read_until(min(len(lines), len(client.events) + random.randint(1, 8)))
        client.abort()
        await client.connect()
    await publishing
    assert [event.data for event in client.events] == lines


async def test_idle_streams_hold_no_thread_and_no_connection(running: Running) -> None:
    """The streams of a user, admitted by the session."""
    async with running.browser() as browser:
        await running.log_in(browser, "idler")
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    [(pk,)] = running.site.execute("SELECT id FROM auth_user WHERE username = 'idler'")
    url = await running.stream_url(f"user.{pk}")
    await asyncio.gather(*(running.connect(url, Cookie=cookie) for _ in range(STREAMS)))
    assert (await running.holdings())["streams"] == STREAMS
    process = psutil.Process(running.server.pid)
    async with asyncio.timeout(30):
        while process.num_threads() > MAX_THREADS or await connections(running) > MAX_CONNECTIONS:
            await asyncio.sleep(0.1)


async def connections(running: Running) -> int:
    assert running.site.postgres is not None
    name = running.site.database_url.rpartition("/")[2]
    return await asyncio.to_thread(running.site.postgres.connections, name)


async def test_leaving_ends_the_stream(running: Running, channel: str) -> None:
    before = await running.until(streams=0, subscribers=0)
    url = await running.stream_url(channel)
    clients = [await running.connect(url) for _ in range(5)]
    for client in clients:
        client.abort()
    await running.until(streams=0, subscribers=0, objects=before["objects"], tasks=before["tasks"])


async def test_admin_pages_have_their_files(running: Running) -> None:
    async with running.browser(follow_redirects=True) as staff:
        await running.log_in(staff, "root", is_staff=True, is_superuser=True)
        files: set[str] = set()
        for page in ("broadcast/", "broadcast/add/", "monitor/?channel=news", "message/", "channelsettings/", "node/"):
            files |= await running.files_of(staff, f"{running.admin}/streams/{page}", files)
        assert any("streams/admin/monitor/stream" in url for url in files), files
        has_toolbar = running.site.env["DJANGO_SETTINGS_MODULE"].endswith(".toolbar")
        assert any("debug_toolbar" in url for url in files) == has_toolbar


async def test_live_monitor_opens_its_urls(running: Running, channel: str) -> None:
    async with running.browser(follow_redirects=True) as staff:
        await running.log_in(staff, "root", is_staff=True, is_superuser=True)
        page = await staff.get(f"{running.admin}/streams/monitor/", params={"channel": channel})
        urls = re.findall(r'"(?:stream|types_url|events_url)": "([^"]+)"', page.text)
        stream, types, events = (url.replace("\\u0026", "&") for url in urls)
        await running.publish(channel, "shown")
        position = (await staff.get(f"{types}&after=0")).json()["types"]["message"]
        found = (await staff.get(events, params={"ids": position})).json()["events"]
        assert found[str(position)]["channel"] == channel
        client = await running.connect(f"{stream}&last_event_id=0")
        assert [event.data for event in await client.read_until(1)] == ["shown"]


async def test_check_has_nothing_to_report(running: Running) -> None:
    assert (await running.ask("checks/"))["messages"] == []
