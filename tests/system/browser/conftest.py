"""Fixtures of the browser tests. The tests share one Chromium, so they all run on the session's event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright, expect

from tests.support.sites import Server, Site, copy_sqlite
from tests.system.browser.browsers import Firefox, launch_chromium
from tests.system.browser.raw_streams import RawSite
from tests.system.browser.wire import Wire

expect.set_options(timeout=20_000)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await launch_chromium(playwright)
        yield browser
        await browser.close()


class Tabs:
    """Open tabs, and record the errors and warnings of their consoles."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.complaints: list[str] = []

    async def open(self, url: str) -> Page:
        page = await self.context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        await page.goto(url)
        return page

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} ({message.location.get('url')})")

    async def log_in(self, server: Server, name: str, **attributes: Any) -> None:
        """Log the browser in as this user. Create the user if it does not exist."""
        key, _, value = server.log_in(name, **attributes).partition("=")
        await self.context.add_cookies([{"name": key, "value": value, "url": server.url}])


@pytest_asyncio.fixture(loop_scope="session")
async def tabs(chromium: Browser) -> AsyncIterator[Tabs]:
    """Yield the tabs of a fresh browser context."""
    context = await chromium.new_context()
    context.set_default_timeout(30_000)
    yield Tabs(context)
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def raw_site() -> AsyncIterator[RawSite]:
    """Yield a site whose streams the test writes byte by byte."""
    site = await RawSite().start()
    yield site
    await site.stop()


class Probe:
    """The records that the probe page has sent. See views.py."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Return the records of this kind in the page's order, without duplicates."""
        data = self.file.read_bytes() if self.file.exists() else b""
        # Skip the last line if it is still being written.
        lines = data[: data.rfind(b"\n") + 1].splitlines()
        found = [record for record in map(json.loads, lines) if record["kind"] == kind]
        if kind == "request":
            return found
        return [record for _, record in sorted({record["n"]: record for record in found}.items())]

    def events(self, *, control: bool = False) -> list[dict[str, Any]]:
        return [event for event in self.records("event") if event["type"].startswith("stream-") == control]

    async def until(self, condition: Callable[[], object], description: str, seconds: float = 60.0) -> None:
        """Wait until `condition()` is true, without blocking the event loop."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            text = self.file.read_text()[-2000:] if self.file.exists() else "nothing"
            raise AssertionError(f"No {description} within {seconds} s. The page reported: {text}") from None


Visit = Callable[[str], Awaitable[None]]


@pytest.fixture
def in_chromium(tabs: Tabs) -> Visit:
    async def visit(url: str) -> None:
        await tabs.open(url)

    return visit


@pytest.fixture
def in_firefox(tmp_path: Path) -> Iterator[Visit]:
    firefox = Firefox(tmp_path)

    async def visit(url: str) -> None:
        firefox.open(url)

    yield visit
    firefox.close()


@pytest.fixture(params=["chromium", "firefox"])
def visit(request: pytest.FixtureRequest) -> Visit:
    """Return a function that opens a URL in a browser. The test runs once per browser."""
    found: Visit = request.getfixturevalue(f"in_{request.param}")
    return found


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    """Return the reports to all servers that are started with PROBE_FILE=str(probe.file)."""
    return Probe(tmp_path / "probe.jsonl")


# --- The chat of the demo site ----------------------------------------------------------------------------------------

EVERYONE = "streams.relay.access.Everyone"

# The answer repeats the question at ten words per second, so the length of the question sets the duration.
ECHO = {"BACKEND": "streams.relay.upstreams.ScriptedUpstream", "OPTIONS": {"answer": "{question}", "seconds": 0.1}}


def chat_site(database: Path, folder: Path, **streams: Any) -> Site:
    copy_sqlite(database, folder / "db.sqlite3")
    site = Site(f"sqlite:///{folder / 'db.sqlite3'}", folder)
    return site.settings(**{"UPSTREAMS": {"default": ECHO}, "RETRY_MILLISECONDS": 200, **streams})


@pytest.fixture(scope="module")
def open_chat_site(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A chat site that all visitors can use. The tests of a module share it, with one browser context per test."""
    folder = tmp_path_factory.mktemp("open")
    limits = {"RELAY_MAX_STREAMS_PER_USER": 1000, "RELAY_MAX_STREAMS": 1000}
    site = chat_site(migrated_sqlite, folder, RELAY_ACCESS=EVERYONE, **limits)
    yield site
    site.close()


@pytest.fixture(scope="module")
def chat_server(open_chat_site: Site) -> Server:
    return open_chat_site.serve()


@pytest.fixture(scope="module")
def members_server(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A chat site that only logged-in users can use, with one question at a time."""
    access = "streams.relay.access.LoggedIn"
    folder = tmp_path_factory.mktemp("members")
    site = chat_site(migrated_sqlite, folder, RELAY_ACCESS=access, RELAY_MAX_STREAMS_PER_USER=1)
    yield site.serve()
    site.close()


@pytest.fixture
def own_chat_site(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Site]:
    """A chat site for one test that all visitors can use."""
    site = chat_site(migrated_sqlite, tmp_path, RELAY_ACCESS=EVERYONE)
    yield site
    site.close()


@pytest_asyncio.fixture(loop_scope="session")
async def chat_wire(chat_server: Server) -> AsyncIterator[Wire]:
    """Yield a connection to the chat server that a test can cut and restore."""
    wire = await Wire(chat_server.port).restore()
    yield wire
    await wire.cut()
