"""streams.js in Chromium with a real server: every event once and in order, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator

import pytest
from playwright.async_api import Page

from tests.support.services import missing, nginx
from tests.support.services.nginx import NginxServer
from tests.support.sites import Server, Site
from tests.system.browser.conftest import Tabs
from tests.system.browser.stream_log import events_of, log_of, open_stream, until

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

BLANK = "/test/process/"  # a page without streams

PUBLISH = """
import sys, time
from streams import publish
for number in range(int(sys.argv[1])):
    publish("news", str(number))
    time.sleep(0.003)
"""


async def open_tabs(tabs: Tabs, url: str, count: int, **options: object) -> list[Page]:
    pages = [await tabs.open(f"{url}{BLANK}") for _ in range(count)]
    for page in pages:
        await open_stream(page, "/events/news/?last_event_id=0", **options)
    for page in pages:
        await until(page, "one.stream.state === 'open'")
    return pages


async def have_all(pages: list[Page], count: int) -> None:
    for page in pages:
        await until(page, f"one.log.some(([type, data]) => data === '{count - 1}')", seconds=60)
        assert [event[1] for event in await events_of(page)] == [str(number) for number in range(count)]
        assert [event[2] for event in await events_of(page)] == [str(number + 1) for number in range(count)]


async def streams_are(server: Server, count: int) -> None:
    async with asyncio.timeout(30):
        while (await asyncio.to_thread(server.json, BLANK))["streams"] != count:
            await asyncio.sleep(0.1)


async def test_ten_tabs_have_every_event_once(sqlite_site: Site, tabs: Tabs) -> None:
    """Several tabs are closed one after the other, and the server is killed, while messages are published."""
    server = sqlite_site.settings(RETRY_MILLISECONDS=200).serve()
    pages = await open_tabs(tabs, server.url, 10, shared=True)
    await streams_are(server, 1)
    publisher = sqlite_site.script(PUBLISH, "300")
    for _ in range(4):
        await until(pages[-1], "one.log.length > 3")
        await pages.pop(0).close()  # the first one leads
        await asyncio.sleep(0.2)
    await asyncio.to_thread(server.stop, signal.SIGKILL)
    await asyncio.to_thread(server.start)
    assert await asyncio.to_thread(publisher.wait) == 0
    await have_all(pages, 300)
    await streams_are(server, 1)


@pytest.fixture
def proxy(sqlite_site: Site) -> Iterator[tuple[Server, NginxServer]]:
    if nginx.program() is None:
        missing("nginx", "nginx")
    server = sqlite_site.settings(RETRY_MILLISECONDS=200, MAX_STREAMS_PER_PROCESS=1).serve()
    proxy = NginxServer([server.port] * 4).start()
    yield server, proxy
    proxy.remove()


async def test_outage_behind_nginx_is_survived(
    sqlite_site: Site, tabs: Tabs, proxy: tuple[Server, NginxServer]
) -> None:
    """nginx answers 200 with an empty stream, which is not shown as open."""
    server, front = proxy
    [page] = await open_tabs(tabs, f"http://127.0.0.1:{front.port}", 1)
    await asyncio.to_thread(sqlite_site.manage, "publish", "news", "0")
    await asyncio.to_thread(server.stop, signal.SIGKILL)
    await until(page, "one.stream.state === 'connecting'")
    for number in (1, 2):
        await asyncio.to_thread(sqlite_site.manage, "publish", "news", str(number))
    await until(page, "one.log.filter(([type]) => type === 'error').length >= 2")
    assert (await log_of(page)).count(["open"]) == 1
    await asyncio.to_thread(server.start)
    await have_all([page], 3)
    assert (await log_of(page)).count(["open"]) == 2


async def test_refused_stream_opens_later(sqlite_site: Site, tabs: Tabs, proxy: tuple[Server, NginxServer]) -> None:
    site = f"http://127.0.0.1:{proxy[1].port}"
    [one] = await open_tabs(tabs, site, 1)
    two = await tabs.open(f"{site}{BLANK}")
    await open_stream(two, "/events/news/?last_event_id=0")
    await until(two, "one.log.some(([name]) => name === 'onError')")
    [error] = [entry[1] for entry in await log_of(two) if entry[0] == "onError"]
    assert (error["status"], error["code"]) == (429, "too-many-streams")
    await one.close()
    await two.evaluate("document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))")
    await until(two, "one.stream.state === 'open'")
    await asyncio.to_thread(sqlite_site.manage, "publish", "news", "0")
    await have_all([two], 1)


async def test_token_is_renewed(sqlite_site: Site, tabs: Tabs) -> None:
    """The stream ends with the token, and goes on with a new one."""
    server = sqlite_site.settings(RETRY_MILLISECONDS=200).serve()
    page = await tabs.open(f"{server.url}{BLANK}")
    made: list[str] = []

    async def token() -> str:
        code = "from streams.tokens import make_token; print(make_token(read=['private'], seconds=%s))"
        script = sqlite_site.script(code % (2 if not made else 100))
        made.append((await asyncio.to_thread(script.communicate))[0].strip())
        return made[-1]

    await page.expose_function("newToken", token)
    script = """async () => {
        const { Stream } = await import("/static/streams/streams.js");
        const stream = new Stream("/events/private/?last_event_id=0", { token: () => window.newToken() });
        window.data = [];
        stream.onmessage = (event) => window.data.push(event.data);
    }"""
    await page.evaluate(script)
    for number in range(40):
        await asyncio.to_thread(sqlite_site.manage, "publish", "private", str(number))
        await until(page, f"data.length > {number}")
        if len(made) == 2:
            break
        await asyncio.sleep(0.1)
    assert len(made) == 2
    assert await page.evaluate("data") == [str(n) for n in range(number + 1)]
    assert all(text not in server.log.read_text() for text in made)


async def test_pruned_messages_are_a_reset(sqlite_site: Site, tabs: Tabs) -> None:
    server = sqlite_site.settings(RETENTION_MESSAGES_PER_CHANNEL=1, PRUNE_SECONDS=None).serve()
    for number in range(3):
        sqlite_site.manage("publish", "news", str(number))
    sqlite_site.manage("prune_messages")
    page = await tabs.open(f"{server.url}{BLANK}")
    await open_stream(page, "/events/news/?last_event_id=1")
    await until(page, "one.log.some(([type, data]) => data === '2')")
    log = await log_of(page)
    first = next(entry for entry in log if len(entry) == 4)
    assert first[0] == "stream-reset"
    assert json.loads(first[1])["reason"] == "pruned"
    assert ["onReset", "stream-reset"] in log
    assert [event[1] for event in await events_of(page)] == ["2"]


@pytest.mark.parametrize("shared", [True, False])
async def test_every_tab_has_the_snapshot(sqlite_site: Site, tabs: Tabs, shared: bool) -> None:
    """A tab that comes late as well. It shares the stream once it has the snapshot."""
    server = sqlite_site.serve()
    sqlite_site.manage("publish", "news", "before")
    pages = []
    for _ in range(3):
        pages.append(await tabs.open(f"{server.url}{BLANK}"))
        await open_stream(pages[-1], "/test/browser/snapshot/news/", shared=shared)
        await until(pages[-1], "one.log.some(([name]) => name === 'onSnapshot')")
    sqlite_site.manage("publish", "news", "after")
    for page in pages:
        await until(page, "one.log.some(([type]) => type === 'message')")
        events = [entry[:2] for entry in await log_of(page) if entry[0] in ("message", "stream-snapshot")]
        assert events == [["stream-snapshot", '{"channels":["news"]}'], ["message", "after"]]
    await streams_are(server, 1 if shared else 3)
