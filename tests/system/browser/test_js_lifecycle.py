"""A Stream of streams.js in Chromium: closing it, its listeners, silent connections, and pages that come back."""

from __future__ import annotations

import asyncio

import pytest

from tests.system.browser.conftest import Tabs
from tests.system.browser.raw_streams import RawSite, Request, send_and_hold
from tests.system.browser.stream_log import FAST, events_of, log_of, open_stream, until

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_close_ends_the_request(raw_site: RawSite, tabs: Tabs) -> None:
    page = await tabs.open(raw_site.url)
    await open_stream(page, "/stream/")
    await until(page, "one.stream.readyState === 1")
    await page.evaluate("one.stream.close()")
    async with asyncio.timeout(30):
        while raw_site.open:
            await asyncio.sleep(0.01)
    assert await page.evaluate("one.stream.state") == "closed"


async def test_close_in_a_listener_ends_the_events(raw_site: RawSite, tabs: Tabs) -> None:
    async def answer(request: Request) -> None:
        await request.until_gone() if request.query else await send_and_hold(request, "data: a\n\ndata: b\n\n")

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await open_stream(page, "/stream/", setup="stream.onmessage = () => stream.close()")
    await until(page, "one.stream.readyState === 2")
    await page.wait_for_timeout(100)
    assert await events_of(page) == [["message", "a", ""]]
    assert len(raw_site.requests) == 1


async def test_exception_in_a_listener_stops_nothing(raw_site: RawSite, tabs: Tabs) -> None:
    async def answer(request: Request) -> None:
        await send_and_hold(request, "event: stream-reset\nid: 1\ndata: {}\n\ndata: a\n\ndata: b\n\n")

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await open_stream(page, "/stream/", setup="stream.onmessage = stream.onopen = () => { throw Error('mine') }")
    await until(page, "one.log.length >= 6")
    assert await events_of(page) == [["message", "a", "1"], ["message", "b", "1"]]
    assert len(raw_site.requests) == 1
    assert {complaint.split(" (")[0] for complaint in tabs.complaints} == {"mine"}


async def test_errors_are_told_from_events_named_error(raw_site: RawSite, tabs: Tabs) -> None:
    async def answer(request: Request) -> None:
        await request.start()
        await request.send("event: error\ndata: mine\n\n")

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    note = "window.seen = []; stream.onerror = (event) => seen.push([event.data, event.bubbles])"
    await open_stream(page, "/stream/", setup=note)
    await until(page, "seen.length === 2")
    assert await page.evaluate("seen") == [["mine", False], [None, False]]
    assert not [entry for entry in await log_of(page) if entry[0] == "onError"], "a clean end is no error"


async def test_silent_connection_is_replaced(raw_site: RawSite, tabs: Tabs) -> None:
    """The first connection stays open without a byte, and so does the answer to the second request."""

    async def answer(request: Request) -> None:
        if (number := len(raw_site.requests)) != 2:
            await request.start()
            await request.send(f"id: {number}\ndata: a\n\n")
        await request.until_gone()

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    await open_stream(page, "/stream/", silenceSeconds=0.3)
    await raw_site.request(2)
    assert [request.query for request in raw_site.requests[:3]] == [{}, {"last_event_id": "1"}, {"last_event_id": "1"}]


async def test_page_that_comes_back_reads_on(raw_site: RawSite, tabs: Tabs) -> None:
    """The events of a page that enters the back/forward cache or freezes, and of a computer that is online again."""
    page = await tabs.open(raw_site.url)
    await open_stream(page, "/stream/?last_event_id=3")
    await until(page, "one.stream.readyState === 1")
    for gone, back in (("pagehide", "pageshow"), ("freeze", "resume"), ("", "online")):
        raw_site.requests.clear()
        if gone:
            await page.evaluate(f"dispatchEvent(new Event('{gone}'))")
            async with asyncio.timeout(30):
                while raw_site.open:
                    await asyncio.sleep(0.01)
        await page.evaluate(f"dispatchEvent(new Event('{back}'))")
        assert (await raw_site.request(0)).query == {"last_event_id": "3"}
        await until(page, "one.stream.readyState === 1")


async def test_page_that_is_looked_at_hurries(raw_site: RawSite, tabs: Tabs) -> None:
    async def answer(request: Request) -> None:
        await request.start(503)

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await open_stream(page, "/stream/")
    await raw_site.request(0)
    await until(page, "one.log.length")
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange', { bubbles: true }))")
    await raw_site.request(1, seconds=2)


# A page that leads, and whose first block tells the other tab that the stream is open.
LEAD = """([url, before]) => {
    const name = `streams true false ${new URL(url, location.href)}`;
    navigator.locks.request(name, () => new Promise(() => {}));
    const channel = new BroadcastChannel(name);
    channel.onmessage = () => channel.postMessage(
        { type: "message", data: "a\\n", id: "2", before, open: 1, origin: location.origin });
}"""


async def test_closing_when_it_opens_ends_a_follower(raw_site: RawSite, tabs: Tabs) -> None:
    """The block that opens it also carries an event, which must not follow."""
    leader, page = await tabs.open(raw_site.url), await tabs.open(raw_site.url)
    await leader.evaluate(LEAD, ["/stream/", "1"])
    closing = "stream.onopen = () => stream.close()"
    await open_stream(page, "/stream/?last_event_id=1", shared=True, setup=closing)
    await until(page, "one.stream.state === 'closed'")
    assert await events_of(page) == []
    assert ["open"] in await log_of(page)
