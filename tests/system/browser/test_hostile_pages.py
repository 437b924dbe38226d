"""An attacker's texts never run as scripts in Chromium, neither in a loaded page nor when they arrive in a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.support.sites import Site, finish
from tests.system.attacks.hostile import HOSTILE, LINK, MARK, SHORT, fill
from tests.system.browser.conftest import Tabs

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

PUBLISH = """
import json, sys
from streams import publish
publish("news", sys.argv[1], event=sys.argv[2])
publish("news", {sys.argv[1]: sys.argv[1]})
"""

# Pages that are partly built by scripts. The test opens the board, the monitor and the chat as well.
PAGES = (
    *("broadcast/add/", "broadcast/1/change/", "broadcast/3/change/", "channelsettings/news/change/", "node/"),
    "message/diagnosis/?message=1&last_event_id=0",
)


async def is_unharmed(page: Page) -> None:
    found = await page.evaluate(
        """mark => [window.hacked, document.querySelectorAll(`[${mark}], [onerror], [onfocus]`).length,
            [...document.querySelectorAll("[href], [src], [action]")].filter(each =>
                /^\\s*javascript:window/i.test(each.getAttribute("href") ?? each.getAttribute("src") ?? "")).length]""",
        MARK,
    )
    assert found in ([None, 0, 0],), page.url


async def test_nothing_that_others_have_written_runs(sqlite_site: Site, tabs: Tabs) -> None:
    models = {"models": [SHORT, LINK], "answer": HOSTILE + " {question}", "seconds": 0}
    upstream: dict[str, Any] = {"BACKEND": "streams.relay.upstreams.ScriptedUpstream", "OPTIONS": models}
    server = sqlite_site.settings(UPSTREAMS={"default": upstream}, PRESENCE_SECONDS=0.5).serve()
    await tabs.log_in(server, "editor", is_staff=True, is_superuser=True)
    finish(sqlite_site.call(fill))

    for path in PAGES:
        page = await tabs.open(f"{server.url}/admin/streams/{path}")
        if path == "node/":
            await page.wait_for_load_state("networkidle")  # its script loads the data
        await is_unharmed(page)
        await page.close()

    # Texts that arrive while the page is open: on the board, in the monitor and in the chat.
    board = await tabs.open(server.url)
    await expect(board.locator("#state")).to_have_attribute("data-state", "live")
    monitor = await tabs.open(f"{server.url}/admin/streams/monitor/?channel=news")
    await expect(monitor.get_by_text("Live", exact=True)).to_be_visible()
    finish(sqlite_site.script(PUBLISH, HOSTILE, SHORT))
    await expect(board.locator("#events .data").filter(has_text=MARK)).to_have_count(5)
    await expect(monitor.get_by_text(MARK).nth(1)).to_be_visible()
    chat = await tabs.open(f"{server.url}/chat/")
    await chat.get_by_label("Your question").fill(HOSTILE)
    await chat.get_by_role("button", name="Ask").click()
    await expect(chat.locator("#turns .answer .text").last).to_contain_text(MARK)
    await expect(chat.locator("#turns .question .text").last).to_contain_text(MARK)
    for page in (board, monitor, chat):
        await is_unharmed(page)
    await chat.reload()  # the page restores the conversation from the browser's storage
    await expect(chat.locator("#turns .answer .text").last).to_contain_text(MARK)
    await is_unharmed(chat)
    assert json.dumps(tabs.complaints).count("Content Security Policy") == 0
