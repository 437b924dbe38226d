"""The demo site's pages in Firefox, whose EventSource keeps ids differently. Another page watches and reports them."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from tests.support.sites import Site
from tests.system.browser.conftest import Probe, Visit

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
async def test_pages_show_each_event_once_also_after_the_server_was_away(
    sqlite_site: Site, probe: Probe, in_firefox: Visit, server: str
) -> None:
    sqlite_site.settings(RETRY_MILLISECONDS=200)
    sqlite_site.manage("publish", "news", "before")
    running = sqlite_site.serve(server, PROBE_FILE=str(probe.file))
    await in_firefox(f"{running.url}/test/browser/watch/")

    def shown() -> dict[str, Any]:
        return next(iter(probe.records("shown")[::-1]), {})

    def shows(*ids: int) -> bool:
        return shown().get("board") == "live" and shown()["ids"] == [str(id) for id in ids]

    await probe.until(lambda: shows(1), "board with the earlier event")
    sqlite_site.manage("publish", "news", "live")
    await probe.until(lambda: shows(2, 1), "live event")
    running.stop(signal.SIGKILL)
    sqlite_site.manage("publish", "news", "while it was down")
    await asyncio.sleep(2)  # a background tab's timers can be limited to once per second
    running.start()
    await probe.until(lambda: shows(3, 2, 1), "replay")
    sqlite_site.manage("publish", "news", "live again")
    await probe.until(lambda: shows(4, 3, 2, 1), "live event after the replay")
    assert "reconnecting" in [record["board"] for record in probe.records("shown")]

    def numbers() -> set[str]:
        return {record["number"] for record in probe.records("shown") if (record["number"] or "").isdigit()}

    await probe.until(lambda: len(numbers()) >= 2, "second random number")
    assert all(0 <= int(number) < 100 for number in numbers())
    assert not probe.records("failure")
