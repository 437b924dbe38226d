"""The requests of streams.js in Chromium, and the responses that it accepts: the HTTP cases of WPT and LaunchDarkly."""

from __future__ import annotations

import email.utils
import time

import pytest

from tests.system.browser.conftest import Tabs
from tests.system.browser.raw_streams import RawSite, Request, send_and_hold
from tests.system.browser.stream_log import FAST, events_of, log_of, open_stream, until

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_request_is_that_of_an_event_source(raw_site: RawSite, tabs: Tabs) -> None:
    page = await tabs.open(raw_site.url)
    await open_stream(page, "/stream/?channel=a&channel=b%20c", headers={"X-One": "1", "accept": "text/html"})
    request = await raw_site.request(0)
    assert request.method == "GET"
    assert request.target == "/stream/?channel=a&channel=b%20c"
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["cache-control"] == "no-cache"
    assert request.headers["x-one"] == "1"
    assert "last-event-id" not in request.headers
    assert await page.evaluate("one.stream.url") == f"{raw_site.url}/stream/?channel=a&channel=b%20c"


@pytest.mark.parametrize("name", ["last_event_id", "lastEventId", "lastEventID", "Last-Event-ID", "last-event-id"])
async def test_cursor_of_the_url_is_replaced(raw_site: RawSite, tabs: Tabs, name: str) -> None:
    async def answer(request: Request) -> None:
        if len(raw_site.requests) == 1:
            await request.start()
            await request.send("id: 42\ndata: a\n\n")
        else:
            await send_and_hold(request)

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    await open_stream(page, f"/stream/?{name}=41&channel=a")
    assert await page.evaluate("one.cursor") == "41"
    await raw_site.request(1)
    assert [r.query for r in raw_site.requests] == [
        {"channel": "a", "last_event_id": "41"},
        {"channel": "a", "last_event_id": "42"},
    ]


async def test_event_without_id_keeps_the_cursor(raw_site: RawSite, tabs: Tabs) -> None:
    """After an empty id, no cursor is sent."""
    texts = ["id: abc\ndata: a\n\ndata: b\n\n", "id\ndata: c\n\n", "data: d\n\n"]

    async def answer(request: Request) -> None:
        await request.start()
        await request.send(texts[len(raw_site.requests) - 1])
        if len(raw_site.requests) == 3:
            await request.until_gone()
        request.reset()

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    await open_stream(page, "/stream/")
    await raw_site.request(2)
    assert [r.query for r in raw_site.requests] == [{}, {"last_event_id": "abc"}, {}]


REFUSALS = {
    "a status": [(status, "text/event-stream") for status in (201, 205, 210, 299, 400, 401, 403, 404, 410, 429)],
    "a server's error": [(status, "text/html") for status in (500, 502, 503, 504)],
    "another type": [
        (200, kind) for kind in ("text/html", "text/x-bogus", "text/event-stream-x", "text/event-stream x")
    ],
    "no type": [(200, "")],
}


@pytest.mark.parametrize("kind", REFUSALS)
async def test_refusals_are_tried_again(raw_site: RawSite, tabs: Tabs, kind: str) -> None:
    refusals = REFUSALS[kind]

    async def answer(request: Request) -> None:
        if (number := len(raw_site.requests)) > len(refusals):
            return await send_and_hold(request)
        await request.start(*refusals[number - 1])
        await request.send("data: not for you\n\n")
        return None

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    await open_stream(page, "/stream/?last_event_id=7")
    await until(page, "one.stream.readyState === 1")
    log = await log_of(page)
    assert await events_of(page) == [["message", "hello", "7"]]
    assert [entry[1]["status"] for entry in log if entry[0] == "onError"] == [status for status, _ in refusals]
    assert len([entry for entry in log if entry == ["error"]]) == len(refusals)
    assert all(request.query == {"last_event_id": "7"} for request in raw_site.requests)


@pytest.mark.parametrize(
    "kind", ["text/event-stream;", "text/event-stream;charset=windows-1251", "Text/Event-Stream ; a=b"]
)
async def test_parameters_of_the_type_are_ignored(raw_site: RawSite, tabs: Tabs, kind: str) -> None:
    async def answer(request: Request) -> None:
        await request.start(kind=kind)
        await request.send("data: ok…\n\n")
        await request.until_gone()

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await open_stream(page, "/stream/")
    await until(page, "one.stream.readyState === 1")
    assert await events_of(page) == [["message", "ok…", ""]]


async def test_error_has_the_words_of_the_server(raw_site: RawSite, tabs: Tabs) -> None:
    async def answer(request: Request) -> None:
        await request.start(403, "application/json")
        await request.send('{"error": {"code": "forbidden", "message": "You cannot read news."}}')

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await open_stream(page, "/stream/")
    await until(page, "one.log.length")
    error = {"status": 403, "code": "forbidden", "message": "You cannot read news."}
    assert await log_of(page) == [["error"], ["onError", error]]
    assert await page.evaluate("one.stream.state") == "connecting"


async def test_network_error_is_reported(raw_site: RawSite, tabs: Tabs) -> None:
    async def answer(request: Request) -> None:
        request.reset()

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await open_stream(page, "/stream/")
    await until(page, "one.log.length")
    [_, [_, error]] = await log_of(page)
    assert error == {"status": 0, "code": "network", "message": "TypeError: Failed to fetch"}


async def test_pauses_grow_and_start_again(raw_site: RawSite, tabs: Tabs) -> None:
    """nginx's answer during an outage, and that of a server that shuts down, open nothing."""
    bodies = ["retry: 2000\n"] * 6 + [":\n", "retry: 2000\n"]

    async def answer(request: Request) -> None:
        await request.start()
        if len(raw_site.requests) > len(bodies):
            await request.until_gone()
        await request.send(bodies[len(raw_site.requests) - 1])

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    await open_stream(page, "/stream/")
    await raw_site.request(len(bodies))
    assert await page.evaluate("delays") == [2000, 4000, 8000, 16_000, 30_000, 30_000, 2000, 4000]
    assert [entry for entry in await log_of(page) if entry != ["error"]] == [
        ["open"], ["state", "open"], ["state", "connecting"],
    ]  # fmt: skip


async def test_pauses_have_jitter(raw_site: RawSite, tabs: Tabs) -> None:
    async def answer(request: Request) -> None:
        await request.start(503, "text/html")

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    await page.evaluate("Math.random = () => 0.5")
    await open_stream(page, "/stream/")
    await raw_site.request(1)
    assert (await page.evaluate("delays"))[0] == 3750


async def test_retry_after_is_respected(raw_site: RawSite, tabs: Tabs) -> None:
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    values = ["10", later, "soon", "0", "999999999999"]

    async def answer(request: Request) -> None:
        number = len(raw_site.requests)
        await request.start(429, "text/html", Retry_After=values[number - 1])

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    await open_stream(page, "/stream/")
    await raw_site.request(3)
    await until(page, "delays.length === 4")
    first, date, *others = await page.evaluate("delays")
    assert (first, others) == (10_000, [12_000, 24_000])
    assert 60_000 < date <= 100_000
    await raw_site.request(4)
    await until(page, "delays.length === 5")
    assert (await page.evaluate("delays"))[4] == 1e9, "a longer timer would end at once"


async def test_204_ends_for_good(raw_site: RawSite, tabs: Tabs) -> None:
    async def answer(request: Request) -> None:
        if len(raw_site.requests) == 1:
            return await request.start() or await request.send("id: 1\nevent: done\ndata: a\n\n")
        return await request.start(204, "")

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    await open_stream(page, "/stream/")
    await until(page, "one.stream.state === 'closed'")
    await page.evaluate("dispatchEvent(new Event('online'))")
    await page.wait_for_timeout(300)
    assert len(raw_site.requests) == 2
    assert (await log_of(page))[-1] == ["state", "closed"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(raw_site: RawSite, tabs: Tabs, status: int) -> None:
    other = raw_site.url.replace("127.0.0.1", "localhost")

    async def answer(request: Request) -> None:
        if request.path == "/moved/":
            await request.start(status, Location=f"{other}/stream/")
        else:
            await send_and_hold(request)

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await open_stream(page, "/moved/")
    await until(page, "one.stream.readyState === 1")
    assert (await log_of(page))[-1] == ["message", "hello", "", other]


async def test_other_origin_needs_no_preflight(raw_site: RawSite, tabs: Tabs) -> None:
    """It gets the cookies only with `withCredentials`."""
    other = await RawSite().start()

    async def answer(request: Request) -> None:
        await request.start()
        await request.send("id: 5\ndata: a\n\n")

    other.answer = answer
    await tabs.context.add_cookies([{"name": "sessionid", "value": "x", "url": other.url}])
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    for included in (False, True):
        other.requests.clear()
        await open_stream(page, f"{other.url}/stream/?last_event_id=4", withCredentials=included)
        await other.request(1)
        await page.evaluate("one.stream.close()")
        assert await page.evaluate("one.stream.withCredentials") is included
        assert {request.method for request in other.requests} == {"GET"}
        assert [request.headers.get("cookie") for request in other.requests[:2]] == [
            "sessionid=x" if included else None
        ] * 2
    await other.stop()
