"""The React hook and the Vue composable with the real React and Vue, in Chromium."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.support.documents import blocks
from tests.support.packages import FOLDER, package
from tests.system.browser.channel import Channel
from tests.system.browser.conftest import Tabs
from tests.system.browser.raw_streams import STATIC, RawSite, Request

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

PAGE = b"""<!doctype html><html lang=en><link rel=icon href="data:,"><title>Page</title>
<main></main><script type=module src=/page.js></script>"""


# The pages that mount the guide's components.
MOUNTING = {
    "react": """
        import { createElement } from "react";
        import { createRoot } from "react-dom/client";
        import { News } from "./News.jsx";
        createRoot(document.querySelector("main")).render(createElement(News, { url: "/events/?last_event_id=0" }));
    """,
    "vue": """
        import { createApp } from "vue";
        import News from "./News.js";
        createApp(News, { url: "/events/?last_event_id=0" }).mount("main");
    """,
}


def component_of_the_guide(name: str, folder: Path) -> Path:
    """Write the guide's component, word for word, and a page that mounts it. Return the page."""
    language = {"react": "jsx", "vue": "vue"}[name]
    [source] = [text for kind, text in blocks("docs/guides/javascript.md") if kind == language]
    if name == "react":
        (folder / "News.jsx").write_text(f"{source}\nexport {{ News }};\n")
    else:
        node = ["node", Path(__file__).with_name("vue_component.js")]
        compiled = subprocess.run(node, input=source, capture_output=True, text=True, timeout=120, cwd=FOLDER.parent)
        assert compiled.returncode == 0, compiled.stderr
        (folder / "News.js").write_text(compiled.stdout)
    page = folder / "main.js"
    page.write_text(MOUNTING[name])
    return page


def bundle(name: str, page: Path, target: Path) -> bytes:
    """Bundle a page with esbuild, as a project does that has installed our package."""
    esbuild = package("esbuild") / "bin" / "esbuild"
    aliases = [f"--alias:django-sse-streams/{name}={STATIC / f'{name}.js'}"]
    options = [
        "--bundle",
        "--format=esm",
        "--jsx=automatic",
        '--define:process.env.NODE_ENV="development"',
        f"--outfile={target}",
    ]
    options += ["--define:__VUE_OPTIONS_API__=true", "--define:__VUE_PROD_DEVTOOLS__=false"]
    options += ["--define:__VUE_PROD_HYDRATION_MISMATCH_DETAILS__=false"]
    env = {**os.environ, "NODE_PATH": str(FOLDER)}
    done = subprocess.run([esbuild, page, *aliases, *options], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return target.read_bytes()


@pytest.fixture(params=["react", "vue"])
def channel(request: pytest.FixtureRequest, raw_site: RawSite, tmp_path: Path) -> Channel:
    package(request.param)
    page = Path(__file__).with_name(f"{request.param}_page.js")
    raw_site.files |= {"/": PAGE, "/page.js": bundle(request.param, page, tmp_path / "page.js")}
    return Channel(raw_site)


@pytest.mark.parametrize("name", ["react", "vue"])
async def test_guides_component_shows_the_events(name: str, raw_site: RawSite, tabs: Tabs, tmp_path: Path) -> None:
    package(name)
    page = component_of_the_guide(name, tmp_path)
    raw_site.files |= {"/": PAGE, "/page.js": bundle(name, page, tmp_path / "page.js")}
    channel = Channel(raw_site)
    tab = await tabs.open(raw_site.url)
    await channel.send(*[f'id: {n}\ndata: {{"title": "number {n}"}}\n\n' for n in (1, 2)])
    await expect(tab.locator("ul[aria-busy=false] li")).to_have_text(["number 1", "number 2"])
    assert tabs.complaints == []


async def shows(page: Page, texts: list[str]) -> None:
    await expect(page.locator("li")).to_have_text(texts)


async def test_component_shows_the_events(raw_site: RawSite, tabs: Tabs, channel: Channel) -> None:
    page = await tabs.open(raw_site.url)
    await expect(page.locator("section")).to_have_attribute("data-state", "open")
    await channel.send('id: 1\ndata: {"title": "one"}\n\n', "event: alert\nid: 2\ndata: two\n\n")
    await shows(page, ["message one", "alert two"])
    await channel.send(*[f"id: {n}\ndata: {n}\n\n" for n in (3, 4)])
    await shows(page, ["alert two", "message 3", "message 4"])
    assert await page.evaluate("seen") == ["1", "2", "3", "4"]
    await channel.send('event: stream-reset\nid: 0\ndata: {"reason": "unknown-id"}\n\n', "id: 1\ndata: 1\n\n")
    await shows(page, ["message 1"])
    assert tabs.complaints == []


async def test_component_reads_on_after_an_outage(raw_site: RawSite, tabs: Tabs, channel: Channel) -> None:
    page = await tabs.open(raw_site.url)
    await channel.send("retry: 100\nid: 1\ndata: one\n\n")
    await shows(page, ["message one"])
    working = raw_site.answer

    async def refuse(request: Request) -> None:
        await request.start(503, "text/html")

    raw_site.answer = refuse
    await channel.cut()
    await expect(page.locator("section")).to_have_attribute("data-state", "connecting")
    await expect(page.locator("section")).to_contain_text("no-stream")
    raw_site.answer = working
    await channel.send("id: 2\ndata: two\n\n")
    await shows(page, ["message one", "message two"])
    await expect(page.locator("section")).not_to_contain_text("no-stream")
    assert raw_site.requests[-1].query == {"last_event_id": "1"}


async def test_component_follows_its_url(raw_site: RawSite, tabs: Tabs, channel: Channel) -> None:
    """A new URL starts anew, and an unmounted component closes its stream."""
    page = await tabs.open(raw_site.url)
    await channel.send("id: 1\ndata: one\n\n")
    await shows(page, ["message one"])
    await page.evaluate("setUrl('/other/?last_event_id=8')")
    await shows(page, [])
    async with asyncio.timeout(30):
        while raw_site.requests[-1].path != "/other/":
            await asyncio.sleep(0.01)
    await channel.send("id: 9\ndata: nine\n\n")
    await shows(page, ["message nine"])
    await page.evaluate("setUrl('')")
    async with asyncio.timeout(30):
        while raw_site.open:
            await asyncio.sleep(0.01)
    assert tabs.complaints == []
