"""The shared functions of the admin's scripts: they show untrusted text exactly as the templates do."""

from __future__ import annotations

import re
from html import unescape

import pytest
from playwright.async_api import Page

from streams.templatetags.streams_admin import pretty, visible
from tests.admin.shown_texts import BEGINNINGS, SHOWN
from tests.support.sites import Site
from tests.system.browser.conftest import Tabs

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


# The text before and after a character: every kind of context that affects a joiner or a selector, and others.
CONTEXTS = [
    "a|b",
    "👨|👩",
    "1|\u20e3",
    "م|ی",
    "۱|۲",
    "क्|ष",
    "क|ष",
    "葛|城",
    "ᠰ|ᠰ",
    "≨|",
    "🏴|\U000e007f",
    "\u200d|\u200d",
]


async def test_context_counts_as_on_the_server(sqlite_site: Site, tabs: Tabs) -> None:
    page = await open_page(sqlite_site, tabs)
    points = [*range(0x20, 0x3100), 0x3164, *range(0xFE00, 0xFF00), *range(0x1F300, 0x1F700), *range(0xE0000, 0xE0200)]
    texts = [context.replace("|", chr(point)) for context in CONTEXTS for point in points]
    shown = await page.evaluate(SHOWN_TEXTS, texts)
    expected = [re.sub(r"<[^>]*>", "", str(visible(text))) for text in texts]
    assert [
        text
        for text, by_script, by_server in zip(texts, shown, map(unescape, expected), strict=True)
        if by_script != by_server
    ] == []


async def test_emoji_and_joiners_are_shown_as_by_the_server(sqlite_site: Site, tabs: Tabs) -> None:
    page = await open_page(sqlite_site, tabs)
    shown = await page.evaluate(SHOWN_TEXTS, [written for written, _ in SHOWN.values()])
    expected = [(written if text is None else re.sub(r"\[(U\+\w+)\]", r"\1", text)) for written, text in SHOWN.values()]
    assert dict(zip(SHOWN, shown, strict=True)) == dict(zip(SHOWN, expected, strict=True))
    for written, limit, expected_start in BEGINNINGS.values():
        units = len(written[:limit].encode("utf-16-le")) // 2  # the script counts UTF-16 units
        assert await page.evaluate("([text, n]) => Streams.shorten(text, n)", [written, units]) == expected_start


async def test_every_emoji_of_the_browser_keeps_its_selector(sqlite_site: Site, tabs: Tabs) -> None:
    """Compare the rule's Unicode blocks with Chromium's own Unicode properties."""
    page = await open_page(sqlite_site, tabs)
    broken = await page.evaluate(
        r"""() => {
            const place = document.createElement("p");
            const broken = [];
            for (let point = 0x80; point < 0x30000; point += 1) {
                const emoji = String.fromCodePoint(point);
                if (!/^\p{Emoji}$/u.test(emoji)) continue;
                Streams.show(place, `${emoji}\ufe0f\u200d${emoji}\ufe0f`);
                if (place.querySelector(".invisible")) broken.push(emoji);
            }
            return broken;
        }"""
    )
    assert broken == []


SHOWN_TEXTS = """texts => texts.map(text => {
    const place = document.createElement("p");
    Streams.show(place, text);
    return place.textContent;
})"""

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
