"""Open a Stream in a page, and record all that it dispatches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from playwright.async_api import Page

from tests.system.browser.raw_streams import RawSite

if TYPE_CHECKING:
    from tests.system.browser.conftest import Tabs

# Waiting takes a hundredth of the time, and has no jitter. `delays` are the milliseconds that were asked for.
FAST = """() => {
    Math.random = () => 0;
    window.delays = [];
    const wait = window.setTimeout, repeat = window.setInterval;
    window.setInterval = (act, milliseconds) => repeat(act, milliseconds / 100);
    window.setTimeout = (act, milliseconds, ...rest) => {
        window.delays.push(milliseconds);
        return wait(act, milliseconds / 100, ...rest);
    };
}"""

OPEN = """async ([name, url, options]) => {
    const { Stream } = await import("/static/streams/streams.js");
    const log = [];
    if (options.tokens) {
        const tokens = options.tokens;
        options.token = async () => { log.push(["token"]); return tokens.shift(); };
    }
    const noted = (name) => (value) => log.push([name, value instanceof Event ? value.type : value]);
    for (const name of ["onError", "onReset", "onSnapshot"]) options[name] = noted(name);
    const stream = new Stream(url, options);
    stream.dispatchEvent = (event) => {
        log.push(event instanceof MessageEvent ? [event.type, event.data, event.lastEventId, event.origin]
            : event.type === "stream-state" ? ["state", stream.state] : [event.type]);
        return EventTarget.prototype.dispatchEvent.call(stream, event);
    };
    window[name] = { stream, log, cursor: stream.lastEventId };
    new Function("stream", options.setup ?? "")(stream);
}"""


async def open_stream(page: Page, url: str, name: str = "one", **options: Any) -> None:
    """Open a Stream as `window[name].stream`, with its events in `window[name].log`.

    `tokens` are those that its callback returns, one after the other. `setup` is code that uses `stream`.
    """
    await page.evaluate(OPEN, [name, url, options])


async def log_of(page: Page, name: str = "one") -> list[list[Any]]:
    found: list[list[Any]] = await page.evaluate(f"{name}.log")
    return found


async def events_of(page: Page, name: str = "one") -> list[list[Any]]:
    """Return the type, data and id of the events that came from the server, without control events."""
    found = [entry[:3] for entry in await log_of(page, name) if len(entry) == 4]
    return [entry for entry in found if not entry[0].startswith("stream-")]


async def until(page: Page, condition: str, seconds: float = 30) -> None:
    """Wait until a JavaScript expression is true. Playwright's own waiting would use the timers of the page."""
    try:
        async with asyncio.timeout(seconds):
            while not await page.evaluate(condition):
                await asyncio.sleep(0.02)
    except TimeoutError:
        logs = await page.evaluate("Object.values(window).filter((v) => v?.log).map((v) => v.log.slice(-20))")
        raise AssertionError(f"Not true within {seconds} s: {condition}. The logs end with {logs}.") from None


async def open_tabs(tabs: Tabs, site: RawSite, count: int, url: str, **options: object) -> list[Page]:
    pages = [await tabs.open(site.url) for _ in range(count)]
    for page in pages:
        await open_stream(page, url, **{"shared": True, **options})
    return pages


async def streams_settle_at(site: RawSite, count: int) -> None:
    try:
        async with asyncio.timeout(30):
            while site.open != count:
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{site.open} streams are open, not {count}") from None
