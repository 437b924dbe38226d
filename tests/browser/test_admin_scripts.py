"""What the admin's scripts share: they show what others have written just as the templates do."""

from __future__ import annotations

import re
from html import unescape

import pytest
from playwright.async_api import Page

from streams.templatetags.streams_admin import pretty, visible
from tests.browser.conftest import Tabs
from tests.sites import Site

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def open_page(site: Site, tabs: Tabs) -> Page:
    server = site.serve()
    await tabs.log_in(server, "editor", is_staff=True, is_superuser=True)
    return await tabs.open(f"{server.url}/admin/streams/broadcast/add/")


async def test_the_same_characters_are_written_out_as_on_the_server(sqlite_site: Site, tabs: Tabs) -> None:
    page = await open_page(sqlite_site, tabs)
    surrogates = range(0xD800, 0xE000)
    points = [point for point in [*range(0x10000), *range(0xE0000, 0xE1000), 0x1F600] if point not in surrogates]
    marked = await page.evaluate(
        """points => points.filter(point => {
            const place = document.createElement("p");
            Streams.show(place, `a${String.fromCodePoint(point)}b`);
            return place.querySelector(".invisible");
        })""",
        points,
    )
    assert marked == [point for point in points if "invisible" in visible(f"a{chr(point)}b")]
    assert len(marked) > 100


JSON = ['{"a":1.10,"b":[true,null,"x, [y]: {z}",{}],"a":2}', r'["a\"b\\", "😀\u202e"]', "{broken", "12", " [ ] "]


async def test_json_is_set_out_as_on_the_server(sqlite_site: Site, tabs: Tabs) -> None:
    page = await open_page(sqlite_site, tabs)
    for text in JSON:
        assert await page.evaluate("text => Streams.pretty(text)", text) == pretty(text)


async def test_markup_is_shown_as_text(sqlite_site: Site, tabs: Tabs) -> None:
    page = await open_page(sqlite_site, tabs)
    text = "</p><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\u202e{{ 7 }}"
    shown = await page.evaluate(
        "text => { const place = document.createElement('p'); Streams.show(place, text); document.body.append(place);"
        "return place.textContent; }",
        text,
    )
    assert shown == unescape(re.sub(r"</?span[^>]*>", "", str(visible(text))))
    assert await page.evaluate("window.hacked") is None
    assert tabs.complaints == []
