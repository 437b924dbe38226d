"""The recipes of the guides, in Chromium and with the real packages: each page shows every message once, in order."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.support.forks import ForkedProcess
from tests.support.services import missing, nginx
from tests.support.services.nginx import PASS_ERRORS, NginxServer
from tests.support.sites import Server, Site
from tests.system.browser.conftest import Tabs
from tests.system.browser.front_ends import recipes
from tests.system.browser.wire import Wire

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

RECIPES = recipes.read()

# The recipes whose stream ends if a status reaches it, as the table of front-ends.md says.
END_AT_A_STATUS = set(re.findall(r"^\| \[.*?#([\w-]+)\).*\*\*ends\*\*", recipes.GUIDES[0].read_text(), re.MULTILINE))

# Publishes a number for every recipe again and again, until its stdin has a line. Then it prints the last number.
PUBLISH = """
import json, select, sys, time
announcers = []
for code in json.loads(sys.argv[1]):
    names = {}
    exec(code, names)
    announcers.append(names["announce"])
number = 0
while not select.select([sys.stdin], [], [], 0.1)[0]:
    number += 1
    for announce in announcers:
        announce(str(number))
print(number)
"""

LOG_LINE = re.compile(r'"GET /events/public\.([\w-]+)/ .*?" (\d+) .* upstream=(.*)')


class World:
    """A site behind nginx, whose pages can be disturbed, and a page of each recipe."""

    def __init__(self, site: Site, server: Server, wire: Wire, proxy: NginxServer, project: Path) -> None:
        self.site = site
        self.server = server
        self.wire = wire  # between nginx and the server
        self.proxy = proxy
        self.project = project
        self.pages: dict[str, Page] = {}

    async def open_pages(self, browser: Browser, stack: AsyncExitStack) -> None:
        """Open each page in a context of its own, because a browser opens six connections to a host."""
        for recipe in RECIPES:
            context = await browser.new_context()
            stack.push_async_callback(context.close)
            self.pages[recipe.name] = await Tabs(context).open(f"http://127.0.0.1:{self.proxy.port}/{recipe.name}/")

    async def shown(self, name: str) -> list[int]:
        items = await self.pages[name].locator("#news li").all_text_contents()
        return [int(text) for text in items]

    async def until(self, condition: Callable[[str], Awaitable[bool]], description: str, names: set[str]) -> None:
        """Wait until the condition is true for each of these recipes."""
        left = set(names)
        try:
            async with asyncio.timeout(60):
                while left := {name for name in left if not await condition(name)}:
                    await asyncio.sleep(0.1)
        except TimeoutError:
            shown = {name: (await self.shown(name))[-5:] for name in left}
            raise AssertionError(f"No {description}: {shown}") from None

    async def goes_on(self, names: set[str]) -> None:
        """Wait until these pages show new messages."""
        newest = max([max(await self.shown(name), default=0) for name in self.pages])

        async def has_newer(name: str) -> bool:
            return max(await self.shown(name), default=0) > newest

        await self.until(has_newer, f"message after {newest}", names)

    def log_size(self) -> int:
        return (self.proxy.folder / "access.log").stat().st_size

    async def is_answered(self, since: int, names: set[str], *upstream: str) -> None:
        """Wait until a stream of each page has ended with one of these statuses of the server."""

        async def is_in_log(name: str) -> bool:
            text = (self.proxy.folder / "access.log").read_text()[since:]
            return any(page == name and last.split(", ")[-1] in upstream for page, _, last in LOG_LINE.findall(text))

        await self.until(is_in_log, f"response with {' or '.join(upstream)}", names)


async def restart(world: World, names: set[str]) -> None:
    await asyncio.to_thread(world.server.stop, signal.SIGTERM, patient=True)
    await asyncio.to_thread(world.server.start)


async def lose_all_servers(world: World, names: set[str]) -> None:
    """nginx answers 502, or with the empty stream of its configuration."""
    since = world.log_size()
    await world.wire.cut()
    await world.is_answered(since, names, "502")
    await world.wire.restore()


async def lose_the_database(world: World, names: set[str]) -> None:
    """The server refuses all streams with 503."""
    (world.project / "away").touch()
    await world.wire.cut()
    since = world.log_size()
    await world.wire.restore()
    await world.is_answered(since, names, "200", "503")
    (world.project / "away").unlink()


async def reach_the_limit(world: World, names: set[str]) -> None:
    """The server refuses all streams with 429, because other clients have taken all slots."""
    await world.wire.cut()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        taken = 0
        while taken < len(RECIPES):  # until the slots of the pages are free
            response = await stack.enter_async_context(client.stream("GET", f"{world.server.url}/events/news/"))
            taken += response.status_code == 200
        since = world.log_size()
        await world.wire.restore()
        await world.is_answered(since, names, "200", "429")


@pytest_asyncio.fixture(loop_scope="session", params=[False, True], ids=["documented", "passing-errors"])
async def world(request: pytest.FixtureRequest, sqlite_site: Site, tmp_path: Path) -> AsyncIterator[World]:
    passes_errors = request.param
    if nginx.program() is None:
        missing("nginx", "nginx")
    project = recipes.create_project(tmp_path / "project", RECIPES)
    sqlite_site.env |= {"DJANGO_SETTINGS_MODULE": f"{recipes.__package__}.settings", "PROJECT": str(project)}
    limits = {"MAX_STREAMS_PER_PROCESS": len(RECIPES), "PRESENCE_SECONDS": 1}
    sqlite_site.settings(RETRY_MILLISECONDS=200, REFUSE_IN_BAND=not passes_errors, **limits)
    server = sqlite_site.serve()
    wire = await Wire(server.port).restore()
    proxy = NginxServer([wire.port] * 4, changes=PASS_ERRORS if passes_errors else None).start()
    yield World(sqlite_site, server, wire, proxy, project)
    proxy.remove()
    await wire.cut()


def publish(site: Site) -> ForkedProcess:
    return site.script(PUBLISH, json.dumps([recipe.publisher() for recipe in RECIPES]))


async def test_pages_show_every_message_once(chromium: Browser, world: World, request: pytest.FixtureRequest) -> None:
    """With the documented nginx.conf and refusals in band, all pages go on. Otherwise some end at the first status."""
    passes_errors = "passing" in request.node.name
    everyone = {recipe.name for recipe in RECIPES}
    surviving = everyone - END_AT_A_STATUS if passes_errors else everyone
    async with AsyncExitStack() as stack:
        await world.open_pages(chromium, stack)
        publisher = publish(world.site)
        await world.goes_on(everyone)
        for disturb in (restart, lose_all_servers, lose_the_database, reach_the_limit):
            await disturb(world, surviving)
            await world.goes_on(surviving)
        out, errors = await asyncio.to_thread(publisher.communicate, "stop\n", 60)
        assert publisher.returncode == 0, errors
        every = list(range(1, int(out) + 1))

        async def has_last(name: str) -> bool:
            return bool(await world.shown(name)) and max(await world.shown(name)) >= every[-1]

        await world.until(has_last, "last message", surviving)
        shown = {name: await world.shown(name) for name in everyone}
        # Compared as a whole, so that a failure names every recipe that is wrong.
        assert {name for name in everyone if shown[name] == every} == surviving
        for name in everyone - surviving:
            assert shown[name] == every[: len(shown[name])], name


async def test_recipes_are_found() -> None:
    """Otherwise the test would pass without them."""
    assert sorted(END_AT_A_STATUS) == ["alpine", "datastar", "turbo"]
    assert [recipe.name for recipe in RECIPES] == [
        "plain-javascript",
        "react",
        "alpine",
        "fetch-event-source",
        "reconnecting-eventsource",
        "htmx",
        "turbo",
        "turbo-with-another-source",
        "datastar",
    ]
