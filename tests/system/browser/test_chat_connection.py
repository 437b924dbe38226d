"""The demo site's chat in Chromium: answers that continue without their page, connection or server."""

import signal

import pytest
from playwright.async_api import Route, expect

from tests.support.sites import Server, Site
from tests.system.browser.chat_pages import (
    ENDLESS,
    LONG,
    SHORT,
    answer,
    ask,
    button,
    has_come,
    is_ready,
    note,
    open_chat,
    shows,
)
from tests.system.browser.conftest import Tabs
from tests.system.browser.wire import Wire

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_reloaded_page_continues_the_answer(chat_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_server)
    await ask(page, LONG)
    await has_come(page)
    await page.reload()
    await has_come(page, "word5")
    await shows(page, LONG)
    await page.reload()
    await shows(page, LONG)
    assert tabs.complaints == []


async def test_answer_ends_while_page_is_closed(chat_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_server)
    await ask(page, SHORT)
    await has_come(page, "one")
    await page.close()
    other = await tabs.open(chat_server.url)
    await other.wait_for_timeout(1000)
    await shows(await open_chat(tabs, chat_server), SHORT)
    assert tabs.complaints == []


async def test_other_tabs_show_the_same(chat_server: Server, tabs: Tabs) -> None:
    one = await open_chat(tabs, chat_server)
    two = await open_chat(tabs, chat_server)
    await ask(one, ENDLESS)
    await has_come(two)
    three = await open_chat(tabs, chat_server)
    await has_come(three)
    await button(one, "Stop").click()
    for page in (one, two, three):
        await expect(note(page)).to_have_text("Stopped.")
        await is_ready(page)
    texts = {await answer(page).text_content() for page in (one, two, three)}
    assert len(texts) == 1
    await button(two, "New conversation").click()
    for page in (one, three):
        await expect(page.locator(".turn")).to_have_count(0)
    assert tabs.complaints == []


async def test_cut_network_loses_no_word(chat_wire: Wire, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_wire)
    await ask(page, LONG)
    await has_come(page)
    await chat_wire.cut()
    await expect(page.locator("#state-word")).to_have_text("Connection lost, trying again …")
    await expect(page.locator("#announcement")).to_have_text("Connection lost, trying again.")
    await page.wait_for_timeout(500)  # the answer continues
    await chat_wire.restore()
    await shows(page, LONG)


async def test_offline_browser_continues_later(chat_wire: Wire, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_wire)
    await ask(page, LONG)
    await has_come(page)
    await tabs.context.set_offline(True)
    await chat_wire.cut()
    await chat_wire.restore()
    await expect(page.locator("#state-word")).to_have_text("Connection lost, trying again …")
    await tabs.context.set_offline(False)
    await shows(page, LONG)


async def test_offline_question_is_sent_later(chat_wire: Wire, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_wire)
    await chat_wire.cut()
    await ask(page, SHORT)
    await expect(page.locator("#state-word")).to_have_text("Connection lost, trying again …")
    await chat_wire.restore()
    await shows(page, SHORT)
    await chat_wire.cut()
    await ask(page, "never mind")
    await expect(page.locator("#state-word")).to_have_text("Connection lost, trying again …")
    await button(page, "Stop").click()
    await expect(note(page)).to_have_text("Not asked: you stopped it before the server had taken it.")
    await is_ready(page)
    await chat_wire.restore()
    await button(page, "Ask again").click()
    await shows(page, "never mind")


async def test_question_without_response_is_asked_once(open_chat_site: Site, chat_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_server)
    keys = []

    async def lose_the_first(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        response = await route.fetch()
        if len(keys) == 1:
            await route.abort()
        else:
            await route.fulfill(response=response)

    await page.route("**/ai/generations/", lose_the_first)
    words = "asked but once"
    await ask(page, words)
    await shows(page, words)
    assert len(keys) == 2
    assert len(set(keys)) == 1
    [(count,)] = open_chat_site.execute(f"SELECT count(*) FROM streams_relay_generation WHERE request LIKE '%{words}%'")
    assert count == 1


async def test_refused_stream_is_retried(chat_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_server)
    refused = []

    async def refuse_twice(route: Route) -> None:
        refused.append(route.request.url)
        if len(refused) <= 2:
            await route.fulfill(status=502, content_type="text/html", body="<h1>Bad gateway</h1>")
        else:
            await route.continue_()

    await page.route("**/events/*", refuse_twice)
    await ask(page, LONG)
    await expect(page.locator("#state-word")).to_have_text("Connection lost, trying again …")
    await shows(page, LONG)
    assert len(refused) >= 3


END = 'event: end\ndata: {"state": "done", "finish_reason": "stop", "usage": null, "error": null}\n\n'


@pytest.mark.parametrize(
    ("words", "events"),
    [
        # After a gap, the stream repeats pieces that the snapshot contains.
        (
            "one two three",
            'event: stream-reset\ndata: {"reason": "pruned"}\n\n'
            'event: stream-snapshot\ndata: {"n": 2, "text": "one two ", "state": "running"}\n\n'
            f'data: {{"n": 1, "text": "two "}}\n\ndata: {{"n": 2, "text": "three"}}\n\n{END}',
        ),
        # A piece is missing: from an answer that has ended, or from one that continues.
        ("one", f'data: {{"n": 1, "text": "two "}}\n\n{END}'),
        (LONG, f'data: {{"n": 0, "text": "word0 "}}\n\ndata: {{"n": 2, "text": "word2 "}}\n\n{END}'),
        # The server failed during the answer, and the browser reconnects.
        (
            "one two three",
            'data: {"n": 0, "text": "one "}\n\nevent: stream-error\ndata: {"code": "internal", "message": "x"}\n\n',
        ),
    ],
    ids=["snapshot", "missing at the end", "missing", "broken"],
)
async def test_answer_is_whole_after_gaps(chat_server: Server, tabs: Tabs, words: str, events: str) -> None:
    """The first stream sends a snapshot, lacks a piece or breaks."""
    page = await open_chat(tabs, chat_server)

    async def respond(route: Route) -> None:
        await route.fulfill(content_type="text/event-stream", body=f"retry: 100\n\n{events}")

    await page.route("**/events/*", respond, times=1)  # later requests reach the server
    await ask(page, words)
    await expect(answer(page)).to_have_text(words)
    await shows(page, words)


async def test_deleted_answer_is_explained(open_chat_site: Site, chat_server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, chat_server)
    await ask(page, "to be deleted")
    await shows(page, "to be deleted")
    await page.evaluate("Conversation.change(Conversation.turns()[0].key, {state: 'answering', text: ''})")
    open_chat_site.execute("DELETE FROM streams_relay_generation WHERE request LIKE '%to be deleted%'")
    await page.reload()
    await expect(note(page)).to_contain_text("The server no longer has this answer")
    await button(page, "Regenerate").click()
    await shows(page, "to be deleted")


async def test_restarted_server_explains_the_interruption(own_chat_site: Site, tabs: Tabs) -> None:
    chat_server = own_chat_site.settings(GENERATION_LEASE_SECONDS=2).serve()
    page = await open_chat(tabs, chat_server)
    await ask(page, LONG)
    await has_come(page)
    chat_server.stop(signal.SIGKILL)
    await expect(page.locator("#state-word")).to_have_text("Connection lost, trying again …")
    chat_server.start()
    await expect(note(page)).to_have_text("The server was stopped during the answer. Ask again?")
    await has_come(page)
    await button(page, "Regenerate").click()
    await shows(page, LONG)


async def test_external_worker_outlives_the_server(own_chat_site: Site, tabs: Tabs) -> None:
    chat_server = own_chat_site.settings(GENERATION_WORKER="command").serve()
    own_chat_site.script("from django.core.management import call_command\ncall_command('run_generations')")
    page = await open_chat(tabs, chat_server)
    await ask(page, LONG)
    await has_come(page)
    chat_server.stop(signal.SIGKILL)
    await expect(page.locator("#state-word")).to_have_text("Connection lost, trying again …")
    chat_server.start()
    await shows(page, LONG)
    await expect(note(page)).to_be_hidden()
