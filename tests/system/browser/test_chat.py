"""The demo site's chat, in Chromium: what a person sees and does there."""

import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, Route, expect

from tests.support.sites import Server, Site, copy_sqlite
from tests.system.browser.conftest import Tabs
from tests.system.browser.layout import fits_its_window
from tests.system.browser.test_board import PAYLOADS
from tests.system.browser.wire import Wire

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

EVERYONE = "streams.relay.access.Everyone"

# The answer is the question, a word every tenth of a second: a test says by its question how long it takes.
ECHO = {"BACKEND": "streams.relay.upstreams.ScriptedUpstream", "OPTIONS": {"answer": "{question}", "seconds": 0.1}}

SHORT = "one two three"
LONG = " ".join(f"word{n}" for n in range(25))
ENDLESS = " ".join(f"word{n}" for n in range(1000))


def chat_site(database: Path, folder: Path, **streams: Any) -> Site:
    copy_sqlite(database, folder / "db.sqlite3")
    site = Site(f"sqlite:///{folder / 'db.sqlite3'}", folder)
    return site.settings(**{"UPSTREAMS": {"default": ECHO}, "RETRY_MILLISECONDS": 200, **streams})


@pytest.fixture(scope="module")
def open_site(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site where everyone may ask. Tests share it: who asks there has a browser of their own."""
    folder = tmp_path_factory.mktemp("open")
    limits = {"RELAY_MAX_STREAMS_PER_USER": 1000, "RELAY_MAX_STREAMS": 1000}
    site = chat_site(migrated_sqlite, folder, RELAY_ACCESS=EVERYONE, **limits)
    yield site
    site.close()


@pytest.fixture(scope="module")
def server(open_site: Site) -> Server:
    return open_site.serve()


@pytest.fixture(scope="module")
def members(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a site where only who is logged in may ask, and one question at a time."""
    access = "streams.relay.access.SignedIn"
    folder = tmp_path_factory.mktemp("members")
    site = chat_site(migrated_sqlite, folder, RELAY_ACCESS=access, RELAY_MAX_STREAMS_PER_USER=1)
    yield site.serve()
    site.close()


@pytest.fixture
def own_site(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Site]:
    """A site of the test's own where everyone may ask."""
    site = chat_site(migrated_sqlite, tmp_path, RELAY_ACCESS=EVERYONE)
    yield site
    site.close()


@pytest_asyncio.fixture(loop_scope="session")
async def wire(server: Server) -> AsyncIterator[Wire]:
    wire = await Wire(server.port).mend()
    yield wire
    await wire.cut()


async def open_chat(tabs: Tabs, server: Server | Wire) -> Page:
    return await tabs.open(f"{server.url}/chat/")


async def ask(page: Page, words: str) -> None:
    await page.get_by_label("Your question").fill(words)
    await page.get_by_role("button", name="Ask", exact=True).click()


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def answer(page: Page) -> Locator:
    """The newest one's text."""
    return page.locator(".turn").last.locator(".answer .text")


def note(page: Page) -> Locator:
    return page.locator(".turn").last.locator(".note")


async def comes(page: Page, words: str = "word3") -> None:
    """Wait until the answer has come so far."""
    await expect(answer(page)).to_contain_text(words)


async def is_ready(page: Page) -> None:
    await expect(page.locator("#state-word")).to_have_text("Ready")


async def shows(page: Page, text: str) -> None:
    """Wait for the answer's end; it is exactly this."""
    await is_ready(page)
    assert await answer(page).text_content() == text


# --- Asking ---


async def test_answer_is_watched_as_it_comes(server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, server)
    await expect(page.locator("#empty")).to_be_visible()
    await is_ready(page)
    await ask(page, LONG)
    await comes(page)
    assert not (await answer(page).text_content() or "").endswith("word24")
    await expect(page.locator("#state-word")).to_have_text("Answering …")
    await expect(page.locator("#announcement")).to_have_text("The answer begins.")
    await expect(page.get_by_label("Your question")).to_have_value("")
    await shows(page, LONG)
    await expect(page.locator("#announcement")).to_have_text("The answer is complete.")
    await expect(page.locator("#empty")).to_be_hidden()
    await expect(note(page)).to_be_hidden()
    # A screen reader is told of begin and end, and not of each word.
    assert await answer(page).evaluate("place => place.closest('[aria-live], [role=log], [role=status]')") is None
    assert tabs.complaints == []


async def test_what_was_said_before_goes_with_the_next_question(server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, server)
    await ask(page, "one")
    await shows(page, "one")
    async with page.expect_request(lambda request: request.method == "POST") as asked:
        await ask(page, "two")
    sent = (await asked.value).post_data_json
    assert sent == {
        "messages": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "two"},
        ]
    }
    await shows(page, "two")
    await expect(page.locator(".question .text")).to_have_text(["one", "two"])


async def test_stopped_answer_stays_as_far_as_it_came(server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, server)
    await ask(page, ENDLESS)
    await comes(page)
    await button(page, "Stop").click()
    await expect(note(page)).to_have_text("Stopped.")
    await is_ready(page)
    text = await answer(page).text_content()
    assert text
    assert ENDLESS.startswith(text)
    await expect(button(page, "Stop")).to_be_hidden()
    await expect(page.get_by_label("Your question")).to_be_focused()
    await page.reload()
    assert await answer(page).text_content() == text
    assert tabs.complaints == []


async def test_regenerated_answer_takes_the_place_of_the_old_one(server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, server)
    await ask(page, SHORT)
    await shows(page, SHORT)
    kept = await page.evaluate("Conversation.turns()[0].generation.id")
    await button(page, "Regenerate").click()
    await expect(page.locator("#state-word")).not_to_have_text("Ready")
    await shows(page, SHORT)
    await expect(page.locator(".turn")).to_have_count(1)
    assert await page.evaluate("Conversation.turns()[0].generation.id") != kept
    assert tabs.complaints == []


async def test_new_conversation_begins_and_the_last_one_comes_back(server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, server)
    await ask(page, ENDLESS)
    await comes(page)
    await button(page, "New conversation").click()
    await expect(page.locator(".turn")).to_have_count(0)
    await expect(page.locator("#empty")).to_be_visible()
    await is_ready(page)
    await button(page, "Restore the last conversation").click()
    await expect(note(page)).to_have_text("Stopped.")  # nobody would have seen the rest
    await comes(page)


async def test_empty_or_early_question_is_told_in_words(server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, server)
    field, error = page.get_by_label("Your question"), page.locator("#question-error")
    await ask(page, " ")
    await expect(error).to_have_text("Write a question first.")
    await expect(field).to_be_focused()
    await expect(field).to_have_attribute("aria-invalid", "true")
    await ask(page, ENDLESS)
    await expect(error).to_be_empty()
    await comes(page)
    await field.fill("early")
    await field.press("Enter")
    await expect(error).to_have_text("Wait for the end of the answer, or stop it.")
    await expect(field).to_have_value("early")
    await expect(page.locator(".turn")).to_have_count(1)
    await button(page, "Stop").click()
    await is_ready(page)


async def test_everything_can_be_done_with_the_keyboard(server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, server)
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")  # past the links
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("Your question")).to_be_focused()
    await page.keyboard.type("by")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type(f"hand {LONG}")
    await page.keyboard.press("Enter")
    await comes(page)
    await expect(page.locator(".question .text")).to_have_text(f"by\nhand {LONG}", use_inner_text=True)
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await expect(button(page, "Stop")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(note(page)).to_have_text("Stopped.")
    await expect(page.get_by_label("Your question")).to_be_focused()
    assert tabs.complaints == []


# --- Answers that outlive their connection ---


async def test_page_that_is_loaded_again_goes_on_in_the_middle(server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, server)
    await ask(page, LONG)
    await comes(page)
    await page.reload()
    await comes(page, "word5")
    await shows(page, LONG)
    await page.reload()
    await shows(page, LONG)
    assert tabs.complaints == []


async def test_answer_ends_while_nobody_looks(server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, server)
    await ask(page, SHORT)
    await comes(page, "one")
    await page.close()
    other = await tabs.open(server.url)
    await other.wait_for_timeout(1000)
    await shows(await open_chat(tabs, server), SHORT)
    assert tabs.complaints == []


async def test_another_tab_shows_the_same(server: Server, tabs: Tabs) -> None:
    one = await open_chat(tabs, server)
    two = await open_chat(tabs, server)
    await ask(one, ENDLESS)
    await comes(two)
    three = await open_chat(tabs, server)
    await comes(three)
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


async def test_network_that_is_cut_costs_no_word(wire: Wire, tabs: Tabs) -> None:
    page = await open_chat(tabs, wire)
    await ask(page, LONG)
    await comes(page)
    await wire.cut()
    await expect(page.locator("#state-word")).to_have_text("Connection lost, trying again …")
    await expect(page.locator("#announcement")).to_have_text("Connection lost, trying again.")
    await page.wait_for_timeout(500)  # words come meanwhile
    await wire.mend()
    await expect(page.locator("#state-word")).to_have_text("Answering …")
    await shows(page, LONG)


async def test_offline_browser_goes_on_when_it_is_back(wire: Wire, tabs: Tabs) -> None:
    page = await open_chat(tabs, wire)
    await ask(page, LONG)
    await comes(page)
    await tabs.context.set_offline(True)
    await wire.cut()
    await wire.mend()
    await expect(page.locator("#state-word")).to_have_text("Connection lost, trying again …")
    await tabs.context.set_offline(False)
    await shows(page, LONG)


async def test_question_asked_without_network_is_sent_when_it_is_back(wire: Wire, tabs: Tabs) -> None:
    page = await open_chat(tabs, wire)
    await wire.cut()
    await ask(page, SHORT)
    await expect(page.locator("#state-word")).to_have_text("Connection lost, trying again …")
    await wire.mend()
    await shows(page, SHORT)
    await wire.cut()
    await ask(page, "never mind")
    await expect(page.locator("#state-word")).to_have_text("Connection lost, trying again …")
    await button(page, "Stop").click()
    await expect(note(page)).to_have_text("Not asked: you stopped it before the server had taken it.")
    await is_ready(page)
    await wire.mend()
    await button(page, "Ask again").click()
    await shows(page, "never mind")


async def test_question_whose_receipt_is_lost_is_asked_once(open_site: Site, server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, server)
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
    [(made,)] = open_site.execute(f"SELECT count(*) FROM streams_relay_generation WHERE request LIKE '%{words}%'")
    assert made == 1


async def test_refused_stream_is_asked_for_again(server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, server)
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
        # As after a gap: what the snapshot has comes again.
        (
            "one two three",
            'event: stream-reset\ndata: {"reason": "pruned"}\n\n'
            'event: stream-snapshot\ndata: {"n": 2, "text": "one two ", "state": "running"}\n\n'
            f'data: {{"n": 1, "text": "two "}}\n\ndata: {{"n": 2, "text": "three"}}\n\n{END}',
        ),
        # A piece is missing, of an answer that has ended or goes on.
        ("one", f'data: {{"n": 1, "text": "two "}}\n\n{END}'),
        (LONG, f'data: {{"n": 0, "text": "word0 "}}\n\ndata: {{"n": 2, "text": "word2 "}}\n\n{END}'),
        # The server failed in the middle, and the browser comes back.
        (
            "one two three",
            'data: {"n": 0, "text": "one "}\n\nevent: stream-error\ndata: {"code": "internal", "message": "x"}\n\n',
        ),
    ],
    ids=["snapshot", "missing at the end", "missing", "broken"],
)
async def test_answer_is_whole_however_its_events_come(server: Server, tabs: Tabs, words: str, events: str) -> None:
    page = await open_chat(tabs, server)

    async def tell(route: Route) -> None:
        await route.fulfill(content_type="text/event-stream", body=f"retry: 100\n\n{events}")

    await page.route("**/events/*", tell, times=1)  # then it is the server's turn
    await ask(page, words)
    await expect(answer(page)).to_have_text(words)
    await shows(page, words)


async def test_answer_that_the_server_has_deleted_is_told(open_site: Site, server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, server)
    await ask(page, "to be deleted")
    await shows(page, "to be deleted")
    await page.evaluate("Conversation.change(Conversation.turns()[0].key, {state: 'answering', text: ''})")
    open_site.execute("DELETE FROM streams_relay_generation WHERE request LIKE '%to be deleted%'")
    await page.reload()
    await expect(note(page)).to_contain_text("The server no longer has this answer")
    await button(page, "Regenerate").click()
    await shows(page, "to be deleted")


# --- Servers that restart ---


async def test_restarted_server_that_answered_itself_says_so(own_site: Site, tabs: Tabs) -> None:
    server = own_site.settings(GENERATION_LEASE_SECONDS=2).serve()
    page = await open_chat(tabs, server)
    await ask(page, LONG)
    await comes(page)
    server.stop(signal.SIGKILL)
    await expect(page.locator("#state-word")).to_have_text("Connection lost, trying again …")
    server.start()
    await expect(note(page)).to_have_text("The server was stopped during the answer. Ask again?")
    await comes(page)
    await button(page, "Regenerate").click()
    await shows(page, LONG)


async def test_answer_of_a_worker_outside_goes_on_when_the_server_restarts(own_site: Site, tabs: Tabs) -> None:
    server = own_site.settings(GENERATION_WORKER="command").serve()
    own_site.script("from django.core.management import call_command\ncall_command('run_generations')")
    page = await open_chat(tabs, server)
    await ask(page, LONG)
    await comes(page)
    server.stop(signal.SIGKILL)
    await expect(page.locator("#state-word")).to_have_text("Connection lost, trying again …")
    server.start()
    await shows(page, LONG)
    await expect(note(page)).to_be_hidden()


# --- Failures, and who may ---


async def test_failure_of_the_upstream_is_told_in_words(own_site: Site, tabs: Tabs) -> None:
    nobody = {"base_url": "http://127.0.0.1:9/v1", "api_key": "secret", "models": ["m"]}
    upstream = {"BACKEND": "streams.relay.upstreams.OpenAICompatible", "OPTIONS": nobody}
    page = await open_chat(tabs, own_site.settings(UPSTREAMS={"default": upstream}).serve())
    await ask(page, SHORT)
    await expect(note(page)).to_have_text(re.compile(r"^The answer failed\. \w+"))
    await expect(page.locator("#announcement")).to_have_text(re.compile(r"^The answer failed\. \w+"))
    await expect(button(page, "Regenerate")).to_be_visible()
    await is_ready(page)


async def test_who_is_not_logged_in_is_told_and_led_there(members: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, members)
    await ask(page, SHORT)
    await expect(note(page)).to_have_text("Not asked: that is for those who are logged in. Log in")
    link = note(page).get_by_role("link", name="Log in")
    await expect(link).to_have_attribute("href", "/admin/login/?next=/chat/")
    await tabs.log_in(members, "somebody")
    await page.reload()
    await expect(note(page)).to_contain_text("Not asked")
    await button(page, "Ask again").click()
    await shows(page, SHORT)


async def test_conversation_is_its_users(members: Server, tabs: Tabs) -> None:
    await tabs.log_in(members, "first")
    page = await open_chat(tabs, members)
    await ask(page, SHORT)
    await shows(page, SHORT)
    await tabs.log_in(members, "second")
    await page.reload()
    await expect(page.locator("#empty")).to_be_visible()
    await tabs.log_in(members, "first")
    await page.reload()
    await shows(page, SHORT)


async def test_one_question_too_many_is_told_in_words(members: Server, chromium: Browser, tabs: Tabs) -> None:
    await tabs.log_in(members, "curious")
    page = await open_chat(tabs, members)
    await ask(page, ENDLESS)
    await comes(page)
    elsewhere = await chromium.new_context()
    other_tabs = Tabs(elsewhere)
    await other_tabs.log_in(members, "curious")
    other = await open_chat(other_tabs, members)
    await ask(other, SHORT)
    await expect(note(other)).to_have_text(re.compile(r"^Not asked: .+ Try again in \d+ seconds?\."))
    await button(page, "Stop").click()
    await expect(note(page)).to_have_text("Stopped.")
    await button(other, "Ask again").click()
    await shows(other, SHORT)
    await elsewhere.close()


async def test_login_that_changed_meanwhile_is_told(members: Server, tabs: Tabs) -> None:
    await tabs.log_in(members, "changing")
    page = await open_chat(tabs, members)
    await tabs.context.clear_cookies(name="csrftoken")
    await ask(page, SHORT)
    await expect(note(page)).to_have_text("Not asked: your login has changed. Load the page again, and ask again.")
    await page.reload()
    await button(page, "Ask again").click()
    await shows(page, SHORT)


# --- What it looks like ---


async def test_words_stay_text(server: Server, tabs: Tabs) -> None:
    page = await open_chat(tabs, server)
    hostile = "\n".join(PAYLOADS)
    await ask(page, hostile)
    await shows(page, hostile)
    await page.reload()
    await shows(page, hostile)
    assert await page.locator(".question .text").text_content() == hostile
    assert await page.locator(".turn .text *").count() == 0
    assert await page.evaluate("window.hacked") is None
    assert tabs.complaints == []


@pytest.mark.parametrize("width", [360, 1280])
async def test_page_fits_its_window_and_keeps_the_end_in_sight(server: Server, chromium: Browser, width: int) -> None:
    context = await chromium.new_context(viewport={"width": width, "height": 800})
    page = await open_chat(Tabs(context), server)
    await fits_its_window(page)
    text = "x" * 300 + "\n" * 40 + "the end"
    await ask(page, text)
    await shows(page, text)
    await fits_its_window(page)
    bottom = await answer(page).evaluate("place => place.getBoundingClientRect().bottom")
    assert 0 < bottom <= await page.locator("#ask").evaluate("form => form.getBoundingClientRect().top") + 1
    await context.close()
