"""<stream-list> and <stream-value> in Chromium."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Page, expect

from tests.system.browser.channel import Channel
from tests.system.browser.conftest import Tabs
from tests.system.browser.payloads import PAYLOADS
from tests.system.browser.raw_streams import RawSite, Request

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

PAGE = """<!doctype html><html lang=en><link rel=icon href="data:,"><title>Page</title>
<meta http-equiv=Content-Security-Policy
content="default-src 'self'; img-src data:; require-trusted-types-for 'script'">
<script type=module src=/static/streams/elements.js></script>
{body}"""

NEWS = """
<stream-list src="/events/?last_event_id=1" limit=3>
  <ul><li data-id=1>rendered by the server</li>
  <template><li><b data-field=title></b> by <span data-field=author.name></span></li></template></ul>
</stream-list>"""


@pytest.fixture
def channel(raw_site: RawSite) -> Channel:
    return Channel(raw_site)


async def show(tabs: Tabs, site: RawSite, body: str) -> Page:
    site.files["/"] = PAGE.replace("{body}", body).encode()
    return await tabs.open(site.url)


async def test_list_shows_the_newest_first(raw_site: RawSite, tabs: Tabs, channel: Channel) -> None:
    page = await show(tabs, raw_site, NEWS)
    items = page.locator("li")
    await expect(page.locator("stream-list")).to_have_attribute("state", "open")
    assert raw_site.requests[0].query == {"last_event_id": "1"}
    await channel.news(1, "on the page already")
    await channel.news(2, "two")
    await expect(items).to_have_text(["two by Ada", "rendered by the server"])
    await channel.news(3, "three")
    await channel.news(4, 4.5)
    await expect(items).to_have_text(["4.5 by Ada", "three by Ada", "two by Ada"])
    assert await items.evaluate_all("items => items.map((item) => item.dataset.id)") == ["4", "3", "2"]
    assert tabs.complaints == []


async def test_list_appends(raw_site: RawSite, tabs: Tabs, channel: Channel) -> None:
    body = """<stream-list src="/events/" append limit=2 event="goal foul"><table><tbody>
    <template><tr><td data-field=""></td></tr></template></tbody></table></stream-list>"""
    page = await show(tabs, raw_site, body)
    await channel.send("event: goal\ndata: one\n\n", "data: another type\n\n", 'event: foul\ndata: {"a":[1]}\n\n')
    await expect(page.locator("tr")).to_have_text(["one", '{"a":[1]}'])
    await channel.send("event: goal\ndata: 1.0\n\n", 'event: goal\ndata: "null"\n\n')
    await expect(page.locator("tr")).to_have_text(["1.0", '"null"'])
    assert tabs.complaints == []


async def test_data_is_shown_as_text(raw_site: RawSite, tabs: Tabs, channel: Channel) -> None:
    page = await show(tabs, raw_site, NEWS.replace("limit=3", ""))
    for number, payload in enumerate(PAYLOADS, 2):
        await channel.news(number, payload, payload)
        await expect(page.locator("li b").first).to_have_text(payload)
    assert await page.locator("li b *, li span *").count() == 0
    assert await page.evaluate("window.hacked") is None
    await channel.send('id: 99\ndata: {"title": {}, "author": "Bob", "__proto__": 1}\n\n')
    await expect(page.locator("li").first).to_have_text("{} by ")


async def test_value_shows_the_newest(raw_site: RawSite, tabs: Tabs, channel: Channel) -> None:
    """The elements of a page share a connection."""
    body = """<p><stream-value src="/events/" field=home>0</stream-value> :
    <stream-value src="/events/" field=away role=none>0</stream-value></p>"""
    page = await show(tabs, raw_site, body)
    await channel.send('event: stream-snapshot\nid: 7\ndata: {"home": 1, "away": 2}\n\n')
    await expect(page.locator("p")).to_have_text("1 : 2")
    await channel.send('id: 8\ndata: {"home": 3, "away": 2}\n\n')
    await expect(page.locator("p")).to_have_text("3 : 2")
    await expect(page.get_by_role("status")).to_have_text("3")
    assert len(raw_site.requests) == 1
    assert tabs.complaints == []


async def test_snapshot_and_reset_replace_the_items(raw_site: RawSite, tabs: Tabs, channel: Channel) -> None:
    page = await show(tabs, raw_site, NEWS)
    items = page.locator("li")
    await page.evaluate("addEventListener('stream-reset', (event) => (window.reason = event.detail.reason))")
    await channel.news(2, "two")
    await channel.send('event: stream-reset\nid: 3\ndata: {"reason": "pruned"}\n\n')
    await page.wait_for_function("window.reason === 'pruned'")
    await expect(items).to_have_text(["two by Ada", "rendered by the server"])
    await channel.send('event: stream-snapshot\nid: 3\ndata: [{"title": "a"}, {"title": "b"}]\n\n')
    await expect(items).to_have_text(["b by", "a by"])
    await channel.send('event: stream-reset\nid: 0\ndata: {"reason": "unknown-id"}\n\n')
    await channel.news(1, "first of another log")
    await expect(items).to_have_text(["first of another log by Ada"])


async def test_element_follows_its_attributes(raw_site: RawSite, tabs: Tabs, channel: Channel) -> None:
    """One that is moved continues, and one that is removed closes its stream."""
    page = await show(tabs, raw_site, NEWS + "<main></main>")
    await channel.news(2, "two")
    await expect(page.locator("li").first).to_have_text("two by Ada")
    await page.evaluate("document.querySelector('main').append(document.querySelector('stream-list'))")
    assert (await raw_site.request(1)).query == {"last_event_id": "2"}
    await page.evaluate("document.querySelector('stream-list').src = 1")  # only the attribute counts
    await page.evaluate("document.querySelector('stream-list').setAttribute('src', '/other/')")
    assert (await raw_site.request(2)).path == "/other/"
    await page.evaluate("document.querySelector('stream-list').remove()")
    async with asyncio.timeout(30):
        while raw_site.open:
            await asyncio.sleep(0.01)
    assert len(raw_site.requests) == 3


async def test_state_can_be_styled(raw_site: RawSite, tabs: Tabs) -> None:
    answers: list[int] = [503]

    async def answer(request: Request) -> None:
        await request.start(answers.pop(0) if answers else 204, "")

    raw_site.answer = answer
    page = await show(tabs, raw_site, NEWS)
    element = page.locator("stream-list")
    await expect(element).to_have_attribute("state", "connecting")
    await page.evaluate("dispatchEvent(new Event('online'))")
    await expect(element).to_have_attribute("state", "closed")


async def test_tabs_share_with_the_attribute(raw_site: RawSite, tabs: Tabs, channel: Channel) -> None:
    body = NEWS.replace("limit=3", "shared")
    pages = [await show(tabs, raw_site, body) for _ in range(3)]
    await channel.news(2, "two")
    for page in pages:
        await expect(page.locator("li").first).to_have_text("two by Ada")
    assert len(raw_site.requests) == 1
    await show(tabs, raw_site, body.replace("shared", "shared='user 7'"))
    await raw_site.request(1)


async def test_module_can_be_loaded_twice(raw_site: RawSite, tabs: Tabs, channel: Channel) -> None:
    page = await show(tabs, raw_site, f"{NEWS}<script type=module src='/static/streams/elements.js?copy'></script>")
    await channel.news(2, "two")
    await expect(page.locator("li")).to_have_text(["two by Ada", "rendered by the server"])
    assert await page.evaluate("import('/static/streams/elements.js?third').then((module) => typeof module.StreamList)")
    assert tabs.complaints == []
