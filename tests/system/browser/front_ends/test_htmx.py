"""streams/htmx.js with htmx and its sse extension: types of events, resets, a final event, removed elements."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.support.sites import Site
from tests.system.browser.conftest import Tabs
from tests.system.browser.front_ends import recipes
from tests.system.browser.wire import Wire

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

PAGE = """
{% load static streams %}
<script src="{% static "vendor/htmx.min.js" %}"></script>
<script src="{% static "vendor/sse.js" %}"></script>
<script src="{% static "streams/htmx.js" %}"></script>
<div id="game" hx-ext="sse" sse-connect="{% stream_url "news" replay=0 %}" sse-close="done">
  <ul id="goals" sse-swap="goal" hx-swap="beforeend"></ul>
  <ul id="news" sse-swap="message, alert" hx-swap="beforeend"></ul>
  <div id="late"></div>
</div>
<div id="resets" hx-ext="sse" sse-connect="/events/public.other/?last_event_id=none">
  <b hx-get="/again/" hx-trigger="sse:stream-reset" hx-target="#late"></b>
</div>
<script>
  window.closings = [];
  document.addEventListener("htmx:sseClose", (event) => window.closings.push(event.detail.type));
</script>
"""
LATE = '<ul id="later" sse-swap="goal" hx-swap="beforeend"></ul>'


async def test_streams_of_a_page_resume_end_and_go(sqlite_site: Site, tabs: Tabs, tmp_path: Path) -> None:
    htmx = next(recipe for recipe in recipes.read() if recipe.name == "htmx")
    project = recipes.create_project(tmp_path / "project", [htmx])
    (project / "templates" / "game.html").write_text(PAGE)
    (project / "templates" / "again.html").write_text(LATE)
    sqlite_site.env |= {"DJANGO_SETTINGS_MODULE": f"{recipes.__package__}.settings", "PROJECT": str(project)}
    server = sqlite_site.settings(RETRY_MILLISECONDS=100).serve()
    wire = await Wire(server.port).restore()
    await tabs.context.add_init_script("Math.random = () => 0")  # the delays are 0.5, 1, 2 … seconds
    page = await tabs.open(f"{wire.url}/game/")
    requests: list[str] = []
    again: list[str] = []
    page.on("request", lambda request: (again if request.url.endswith("/again/") else requests).append(request.url))

    async def publish(text: str, event: str = "message", channel: str = "news") -> None:
        html = f"<li>{text}</li>"
        await asyncio.to_thread(sqlite_site.manage, "publish", channel, html, "--event", event)

    async def refuse() -> None:
        """Break the streams, and refuse them with a 503, at which an EventSource gives up, and once more."""
        (project / "away").touch()
        await wire.cut()
        requests.clear()
        await wire.restore()
        while sum("/events/news/" in url for url in requests) < 2:
            await page.wait_for_timeout(50)

    # The reset triggers a request, and the element that comes with its response listens to the source of #game.
    goals, news, later = (page.locator(f"#{name} li") for name in ("goals", "news", "later"))
    await page.locator("#later").wait_for(state="attached")
    again.clear()

    # A page that has only received a checkpoint, and its second stream after a message.
    await page.wait_for_timeout(500)  # for the checkpoint
    await refuse()
    await publish("one", "goal")
    (project / "away").unlink()
    await expect(goals).to_have_text(["one"])
    await refuse()
    await publish("two")
    await publish("three", "goal")
    await publish("four", "alert")
    (project / "away").unlink()
    await expect(goals).to_have_text(["one", "three"])
    await expect(later).to_have_text(["one", "three"])
    await expect(news).to_have_text(["two", "four"])

    assert again == [], "the id of the reset is the cursor of the next stream"

    # A removed element opens no stream again, also if it is waiting to do so.
    await refuse()
    await page.wait_for_timeout(300)  # it waits now
    await page.evaluate("htmx.swap('#resets', '', { swapStyle: 'delete' })")
    assert await page.evaluate("closings") == ["nodeReplaced"]
    requests.clear()
    await page.wait_for_timeout(2500)  # longer than the third delay
    assert not [url for url in requests if "/events/public.other/" in url]
    (project / "away").unlink()
    await publish("six")
    await expect(news).to_have_text(["two", "four", "six"])

    # After the final event, the source is closed.
    await publish("end", "done")
    await page.wait_for_function("closings.includes('message')")
    requests.clear()
    await publish("seven")
    await page.wait_for_timeout(1000)  # longer than the first delay
    assert requests == []
    await expect(news).to_have_text(["two", "four", "six"])
    await wire.cut()
