"""Tabs in Chromium that share one stream: what each of them gets, whatever happens to the tab that leads."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Dialog, Page

from tests.system.browser.conftest import Tabs
from tests.system.browser.raw_log import Log
from tests.system.browser.raw_streams import RawSite, Request
from tests.system.browser.stream_log import FAST, events_of, log_of, open_stream, open_tabs, streams_settle_at, until

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture
def log(raw_site: RawSite) -> Log:
    return Log(raw_site)


async def have(pages: list[Page], first: int, last: int) -> None:
    """Wait until each page has the last message, and check that it has each once and in order."""
    for page in pages:
        await until(page, f"one.log.some(([type, data]) => data === '{last}')")
        assert [event[1] for event in await events_of(page)] == [str(n) for n in range(first, last + 1)]


LEADS = """() => navigator.locks.request("own", async () => {
    const { held } = await navigator.locks.query();
    const { clientId } = held.find((lock) => lock.name === "own");
    return held.some((lock) => lock.name !== "own" && lock.clientId === clientId);
})"""


async def leader_of(pages: list[Page]) -> Page:
    """Return the page that holds the lock."""
    async with asyncio.timeout(30):
        while True:
            for page in pages:
                if await page.evaluate(LEADS):
                    return page


async def test_ten_tabs_have_one_stream(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    pages = await open_tabs(tabs, raw_site, 10, "/stream/?last_event_id=0")
    await streams_settle_at(raw_site, 1)
    await log.publish(3)
    await have(pages, 1, 3)
    assert len(raw_site.requests) == 1
    for page in pages:
        assert await page.evaluate("one.stream.state") == "open"
        assert (await log_of(page)).count(["open"]) == 1
    assert tabs.complaints == []


async def test_tab_with_an_older_cursor_gets_the_rest(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    """It reads what it misses on a connection of its own, and then follows."""
    await log.publish(5)
    early = await open_tabs(tabs, raw_site, 1, "/stream/?last_event_id=0")
    await have(early, 1, 5)
    late = await open_tabs(tabs, raw_site, 1, "/stream/?last_event_id=2")
    await have(late, 3, 5)
    await streams_settle_at(raw_site, 1)
    assert len(raw_site.requests) == 2
    await log.publish(2)
    await have(early, 1, 7)
    await have(late, 3, 7)


async def test_tab_with_a_newer_cursor_repeats_nothing(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    await log.publish(5)
    early = await open_tabs(tabs, raw_site, 1, "/stream/?last_event_id=0")
    await have(early, 1, 5)
    late = await open_tabs(tabs, raw_site, 1, "/stream/?last_event_id=5")
    await until(late[0], "one.stream.state === 'open'")
    await log.publish(1)
    await have(late, 6, 6)
    assert len(raw_site.requests) == 1


async def test_leader_that_is_behind_repeats_nothing(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    await log.publish(5)
    log.replays.clear()
    early = await open_tabs(tabs, raw_site, 1, "/stream/?last_event_id=0")
    await until(early[0], "one.stream.state === 'open'")
    late = await open_tabs(tabs, raw_site, 1, "/stream/?last_event_id=5")
    await until(late[0], "one.stream.state === 'open'")
    await streams_settle_at(raw_site, 1)
    log.replays.set()
    await have(early, 1, 5)
    await log.publish(1)
    await have(early, 1, 6)
    await have(late, 6, 6)


async def test_closed_leader_loses_and_repeats_nothing(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    pages = await open_tabs(tabs, raw_site, 4, "/stream/?last_event_id=0")
    await streams_settle_at(raw_site, 1)
    publisher = asyncio.create_task(burst(log, 200))
    while len(pages) > 1:
        leader = await leader_of(pages)
        pages.remove(leader)
        await (leader.close() if len(pages) % 2 else leader.goto("about:blank"))
    await publisher
    await have(pages, 1, 200)
    await streams_settle_at(raw_site, 1)


async def burst(log: Log, count: int) -> None:
    for _ in range(count):
        await log.publish()
        await asyncio.sleep(0.005)


async def test_closed_stream_of_the_leader_moves_on(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    pages = await open_tabs(tabs, raw_site, 3, "/stream/?last_event_id=0")
    await streams_settle_at(raw_site, 1)
    await log.publish(2)
    await have(pages, 1, 2)
    leader = await leader_of(pages)
    await leader.evaluate("one.stream.close()")
    await log.publish(2)
    others = [page for page in pages if page != leader]
    await have(others, 1, 4)
    assert len(await events_of(leader)) == 2
    await streams_settle_at(raw_site, 1)


async def test_tabs_do_without_a_leader_that_hangs(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    """A dialog blocks its page. Afterwards, the other tabs follow it again."""
    pages = [await tabs.open(raw_site.url) for _ in range(3)]
    for page in pages:
        await page.evaluate(FAST)
        await open_stream(page, "/stream/?last_event_id=0", shared=True, silenceSeconds=0.5)
    await log.publish(2)
    await have(pages, 1, 2)
    await streams_settle_at(raw_site, 1)
    leader = await leader_of(pages)
    dialogs: asyncio.Queue[Dialog] = asyncio.Queue()
    leader.on("dialog", dialogs.put_nowait)
    hanging = asyncio.create_task(leader.evaluate("alert('It hangs.')"))
    dialog = await dialogs.get()
    await log.publish(2)
    await have([page for page in pages if page != leader], 1, 4)
    await dialog.accept()
    await hanging
    await have(pages, 1, 4)
    await log.publish(2)
    await have(pages, 1, 6)
    await streams_settle_at(raw_site, 1)


async def test_frozen_leader_gives_up_the_lead(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    pages = await open_tabs(tabs, raw_site, 2, "/stream/?last_event_id=0")
    await streams_settle_at(raw_site, 1)
    leader = await leader_of(pages)
    [other] = [page for page in pages if page != leader]
    await leader.evaluate("document.dispatchEvent(new Event('freeze'))")
    await log.publish(3)
    await have([other], 1, 3)
    assert await leader_of(pages) == other
    await leader.evaluate("document.dispatchEvent(new Event('resume'))")
    await have(pages, 1, 3)
    await streams_settle_at(raw_site, 1)
    await log.publish(1)
    await have(pages, 1, 4)


async def test_outage_is_seen_by_all(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    pages = await open_tabs(tabs, raw_site, 3, "/stream/?last_event_id=0")
    await streams_settle_at(raw_site, 1)
    log.refuse = True
    await log.end_streams()
    for page in pages:
        await until(page, "one.log.some(([name, error]) => name === 'onError' && error.status === 503)")
        assert await page.evaluate("one.stream.state") == "connecting"
    log.refuse = False
    await log.publish(2)
    await have(pages, 1, 2)


async def test_reset_reaches_all_tabs(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    await log.publish(9)
    pages = await open_tabs(tabs, raw_site, 3, "/stream/?last_event_id=9")
    await streams_settle_at(raw_site, 1)
    await log.publish(1)
    await have(pages, 10, 10)
    await log.replace(2)
    for page in pages:
        await until(page, "one.log.filter(([type, data]) => data === '2').length === 1")
    await log.publish(1)
    for page in pages:
        await until(page, "one.log.some(([type, data]) => data === '3')")
        assert [event[1] for event in await events_of(page)] == ["10", "1", "2", "3"]
        assert len([entry for entry in await log_of(page) if entry[0] == "onReset"]) == 1


async def test_tab_with_its_own_connection_asks_after_a_reset(raw_site: RawSite, tabs: Tabs) -> None:
    """Its own connection could be one to the log that was replaced."""
    replace = asyncio.Event()

    async def answer(request: Request) -> None:
        number = len(raw_site.requests)
        cursor = request.query["last_event_id"]
        await request.start()
        if number < 3:
            await request.send(f"event: stream-checkpoint\nid: {cursor}\ndata: {{}}\n\n")
        if number == 1:
            await replace.wait()
        if number != 2:
            await request.send("event: stream-reset\nid: 0\ndata: {}\n\nid: 1\ndata: 1\n\n")
        await request.until_gone()

    raw_site.answer = answer
    pages = [(await open_tabs(tabs, raw_site, 1, f"/stream/?last_event_id={cursor}"))[0] for cursor in (9, 5)]
    await until(pages[1], "one.stream.state === 'open'")
    replace.set()
    assert (await raw_site.request(2)).query == {"last_event_id": "5"}
    await have(pages, 1, 1)


async def test_cursor_of_a_replaced_log_is_checked(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    """A tab whose cursor is above that of the leader asks the server, because the log could have been replaced."""
    await log.publish(2)
    early = await open_tabs(tabs, raw_site, 1, "/stream/?last_event_id=2")
    await streams_settle_at(raw_site, 1)
    late = await open_tabs(tabs, raw_site, 1, "/stream/?last_event_id=1000")
    await until(late[0], "one.log.some(([name]) => name === 'onReset')")
    await log.publish(1)
    await have(early, 3, 3)
    await have(late, 1, 3)
    await streams_settle_at(raw_site, 1)


async def test_streams_of_others_are_not_mixed(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    page = await tabs.open(raw_site.url)
    for name, options in {
        "one": {"shared": "user 1", "tokens": ["a"]},
        "two": {"shared": "user 2", "tokens": ["b"]},
        "three": {"shared": "user 1", "tokens": ["c"]},
        "four": {"shared": True},
        "five": {},
    }.items():
        await open_stream(page, "/stream/?last_event_id=0", name, **options)
    await log.publish(1)
    for name in ("one", "two", "three", "four", "five"):
        await until(page, f"{name}.log.some(([type, data]) => data === '1')")
    await streams_settle_at(raw_site, 4)
    error = await page.evaluate("""async () => {
        const { Stream } = await import("/static/streams/streams.js");
        try { new Stream("/", { shared: true, token: () => "" }); } catch (error) { return String(error); }
    }""")
    assert error == "TypeError: With token or headers, shared must name the user."


async def test_page_without_locks_has_its_own_stream(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    """Browsers offer locks only to secure origins."""
    await tabs.context.add_init_script("Object.defineProperty(Navigator.prototype, 'locks', { value: undefined })")
    pages = await open_tabs(tabs, raw_site, 2, "/stream/?last_event_id=0")
    await log.publish(1)
    await have(pages, 1, 1)
    assert raw_site.open == 2


async def test_denied_locks_do_no_harm(raw_site: RawSite, tabs: Tabs, log: Log) -> None:
    raw_site.files["/frame/"] = b"<!doctype html><iframe sandbox=allow-scripts src=/inner/></iframe>"
    raw_site.files["/inner/"] = b"""<!doctype html><script type=module>
        import { Stream } from "/static/streams/streams.js";
        const stream = new Stream("/stream/?last_event_id=0", { shared: true });
        stream.onmessage = (event) => document.body.append(event.data);
    </script><body>"""
    page = await tabs.open(f"{raw_site.url}/frame/")
    await log.publish(1)
    await page.frame_locator("iframe").get_by_text("1").wait_for()


async def test_events_without_ids_are_shared(raw_site: RawSite, tabs: Tabs) -> None:
    next_event = asyncio.Event()

    async def answer(request: Request) -> None:
        await request.start()
        await request.send(":\n")
        await next_event.wait()
        await request.send("data: a\n\ndata: a\n\n")
        await request.until_gone()

    raw_site.answer = answer
    pages = await open_tabs(tabs, raw_site, 3, "/numbers/")
    for page in pages:
        await until(page, "one.stream.state === 'open'")
    next_event.set()
    for page in pages:
        await until(page, "one.log.at(-1)[0] === 'message'")
        assert [event[1] for event in await events_of(page)] == ["a", "a"]
    assert len(raw_site.requests) == 1


async def test_final_answer_closes_all_tabs(raw_site: RawSite, tabs: Tabs) -> None:
    finish = asyncio.Event()

    async def answer(request: Request) -> None:
        if finish.is_set():
            await request.start(204, "")
        else:
            await request.start()
            await request.send("retry: 100\nid: 1\ndata: a\n\n")
            await finish.wait()

    raw_site.answer = answer
    pages = await open_tabs(tabs, raw_site, 3, "/stream/?last_event_id=0")
    for page in pages:
        await until(page, "one.log.some(([type, data]) => data === 'a')")
    finish.set()
    for page in pages:
        await until(page, "one.stream.state === 'closed'")
