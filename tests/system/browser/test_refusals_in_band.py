"""The EventSource of Chromium and of Firefox over a limit, with refusals in band: it waits for a slot by itself."""

import asyncio
import json
import urllib.request

import pytest

from tests.support.sites import Site
from tests.system.browser.conftest import Probe, Visit

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def test_page_over_the_limit_connects_when_a_slot_is_free(sqlite_site: Site, probe: Probe, visit: Visit) -> None:
    sqlite_site.settings(MAX_STREAMS_PER_PROCESS=1, REFUSE_IN_BAND=True)
    server = sqlite_site.serve(PROBE_FILE=str(probe.file))
    sqlite_site.manage("publish", "news", "before the page")
    with await asyncio.to_thread(urllib.request.urlopen, f"{server.url}/events/news/", timeout=60):  # takes the slot
        stream = "/test/browser/stream/news/%3Flast_event_id=1"
        await visit(f"{server.url}/test/browser/?stream={stream}")
        await probe.until(lambda: probe.records("error"), "end of the refused stream")
        sqlite_site.manage("publish", "news", "while it waits")
    await probe.until(probe.events, "arrival of the message")
    refused, *_, checkpoint = probe.events(control=True)
    assert (refused["type"], refused["id"]) == ("stream-error", "")
    assert json.loads(refused["data"])["code"] == "too-many-streams"
    assert [(event["id"], event["data"]) for event in probe.events()] == [("2", "while it waits")]
    assert checkpoint["type"] == "stream-checkpoint"
    assert not [error for error in probe.records("error") if error["closed"]]
