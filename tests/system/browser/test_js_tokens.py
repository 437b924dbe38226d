"""Tokens and control events of streams.js in Chromium."""

from __future__ import annotations

import pytest

from tests.system.browser.conftest import Tabs
from tests.system.browser.raw_streams import RawSite, Request, send_and_hold
from tests.system.browser.stream_log import FAST, log_of, open_stream, until

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_refused_token_is_renewed(raw_site: RawSite, tabs: Tabs) -> None:
    """The token in the page's URL is used until it is refused. A new token that is refused as well waits."""
    accepted = ["first", "Bearer second", "Bearer fourth"]

    async def answer(request: Request) -> None:
        token = request.query.get("token") or request.headers["authorization"]
        if token not in accepted:
            return await request.start(403, "text/html")
        accepted.remove(token)
        await request.start()
        return await request.send("data: a\n\n")

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    await open_stream(page, "/stream/?token=first", tokens=["second", "third", "fourth", "fifth"])
    await raw_site.request(5)
    assert [(r.query.get("token"), r.headers.get("authorization")) for r in raw_site.requests[:6]] == [
        ("first", None),
        ("first", None),
        (None, "Bearer second"),
        (None, "Bearer second"),
        (None, "Bearer third"),
        (None, "Bearer fourth"),
    ]
    assert (await page.evaluate("delays"))[:3] == [3000, 3000, 6000]


async def test_revoked_stream_asks_for_a_token(raw_site: RawSite, tabs: Tabs) -> None:
    async def answer(request: Request) -> None:
        text = 'event: stream-error\ndata: {"code":"revoked","message":"No longer."}\n\n'
        if request.headers["authorization"] == "Bearer one":
            await request.start()
            await request.send(text)
        else:
            await send_and_hold(request)

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    await open_stream(page, "/stream/", tokens=["one", "two"])
    await until(page, "one.stream.readyState === 1 && one.log.at(-1)[0] === 'message'")
    assert [request.headers["authorization"] for request in raw_site.requests] == ["Bearer one", "Bearer two"]
    error = {"status": 200, "code": "revoked", "message": "No longer."}
    assert ["onError", error] in await log_of(page)


async def test_failing_token_is_tried_again(raw_site: RawSite, tabs: Tabs) -> None:
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    script = """async () => {
        const { Stream } = await import("/static/streams/streams.js");
        window.errors = [];
        let calls = 0;
        const token = () => { if (calls++ < 2) throw Error("no network"); return "mine"; };
        window.stream = new Stream("/stream/", { token, onError: (error) => errors.push(error) });
    }"""
    await page.evaluate(script)
    assert (await raw_site.request(0)).headers["authorization"] == "Bearer mine"
    assert await page.evaluate("errors") == [{"status": 0, "code": "network", "message": "Error: no network"}] * 2


async def test_control_events_have_callbacks(raw_site: RawSite, tabs: Tabs) -> None:
    texts = [
        'event: stream-reset\nid: 3\ndata: {"reason":"unknown-id"}\n\n',
        "event: stream-snapshot\nid: 9\ndata: [1,2]\n\nevent: stream-checkpoint\nid: 11\ndata: {}\n\n",
    ]

    async def answer(request: Request) -> None:
        if (number := len(raw_site.requests)) > 2:
            return await request.until_gone()
        await request.start()
        return await request.send(texts[number - 1])

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    await open_stream(page, "/stream/?last_event_id=1000")
    await raw_site.request(2)
    assert [request.query["last_event_id"] for request in raw_site.requests] == ["1000", "3", "11"]
    log = [entry[:2] for entry in await log_of(page)]
    assert ["onReset", "stream-reset"] in log
    assert ["onSnapshot", "stream-snapshot"] in log
    assert ["stream-reset", '{"reason":"unknown-id"}'] in log
