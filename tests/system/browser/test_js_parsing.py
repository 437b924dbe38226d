"""streams.js in Chromium with the cases of parsing that all clients share."""

from __future__ import annotations

import pytest

from tests.support.event_stream_cases import CASES
from tests.system.browser.conftest import Tabs
from tests.system.browser.raw_streams import RawSite, Request
from tests.system.browser.stream_log import FAST, events_of, open_stream, until

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_cases_are_parsed_as_the_standard_says(raw_site: RawSite, tabs: Tabs) -> None:
    """Each case is one response. The second request shows the last event id, and gets a 204."""
    seen: dict[int, Request] = {}

    async def answer(request: Request) -> None:
        number = int(request.path.split("/")[2])
        if request.query.pop("first", None) and number not in seen:
            seen[number] = request
            await request.start()
            await request.send(*CASES[number].chunks)
        else:
            seen[number] = request
            await request.start(204)

    raw_site.answer = answer
    page = await tabs.open(raw_site.url)
    await page.evaluate(FAST)
    for number, case in enumerate(CASES):
        await page.evaluate("delays.length = 0")
        await open_stream(page, f"/case/{number}/?first=1")
        await until(page, "one.stream.readyState === 2")
        assert [tuple(event) for event in await events_of(page)] == list(case.events), case.name
        assert seen[number].query.get("last_event_id", "") == case.last_event_id, case.name
        assert await page.evaluate("delays") == [3000 if case.retry is None else case.retry], case.name
