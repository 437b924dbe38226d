"""The Back button in the recipes of front ends that keep pages in a cache of their own: no message comes twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.support.sites import Site, finish
from tests.system.browser.conftest import Tabs
from tests.system.browser.front_ends import recipes

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

LINK = '<a id="link" hx-boost="true" href="/other/">Another page</a>'
OTHER = """
{% load static %}
<script type="module" src="{% static "vendor/turbo.js" %}"></script>
<h1>Another page</h1>
"""


NAMES = ("htmx", "turbo", "turbo-with-another-source")


@pytest.mark.parametrize("name", NAMES)
async def test_back_button_repeats_no_message(sqlite_site: Site, tabs: Tabs, tmp_path: Path, name: str) -> None:
    found = {recipe.name: recipe for recipe in recipes.read() if recipe.name in NAMES}
    project = recipes.create_project(tmp_path / "project", list(found.values()))
    with (project / "templates" / f"{name}.html").open("a") as page_file:
        page_file.write(LINK)
    (project / "templates" / "other.html").write_text(OTHER)
    sqlite_site.env |= {"DJANGO_SETTINGS_MODULE": f"{recipes.__package__}.settings", "PROJECT": str(project)}
    server = sqlite_site.serve()
    page = await tabs.open(f"{server.url}/{name}/")
    news = page.locator("#news li")

    async def announce(text: str) -> None:
        await asyncio.to_thread(finish, sqlite_site.script(f"{found[name].publisher()}\nannounce({text!r})"))

    await announce("one")
    await expect(news).to_have_text(["one"])
    await page.evaluate("window.loaded = true")
    await page.locator("#link").click()
    await page.locator("h1").wait_for()
    await announce("two")
    await page.go_back()
    await page.locator("#news").wait_for(state="attached")
    assert await page.evaluate("loaded"), "the front end and not the browser has changed the page"
    await page.wait_for_timeout(500)  # for a replay of old messages, and for the new stream
    await announce("three")
    await expect(news).to_have_text(["three"])  # the page came from the server again, which knows the old ones
