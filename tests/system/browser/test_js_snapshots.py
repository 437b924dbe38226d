"""Tabs in Chromium that share one stream: each of them gets the snapshot."""

from __future__ import annotations

import asyncio

import pytest

from tests.system.browser.conftest import Tabs
from tests.system.browser.raw_streams import RawSite, Request
from tests.system.browser.stream_log import log_of, open_tabs, streams_settle_at, until

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]


async def test_late_tab_waits_for_its_snapshot(raw_site: RawSite, tabs: Tabs) -> None:
    async def answer(request: Request) -> None:
        await request.start()
        await request.send("event: stream-checkpoint\nid: 7\ndata: {}\n\n")
        await asyncio.sleep(0.3)
        await request.send("event: stream-snapshot\nid: 7\ndata: {}\n\n")
        await request.until_gone()

    raw_site.answer = answer
    for _ in range(2):
        [page] = await open_tabs(tabs, raw_site, 1, "/stream/")
        await until(page, "one.log.some(([name]) => name === 'onSnapshot')")


async def test_snapshot_reaches_the_following_tabs(raw_site: RawSite, tabs: Tabs) -> None:
    """It has the id of the event before it."""
    all_follow = asyncio.Event()

    async def answer(request: Request) -> None:
        await request.start()
        await request.send("event: stream-checkpoint\nid: 7\ndata: {}\n\n", ":\n", ":\n")
        await all_follow.wait()
        await request.send('event: stream-reset\nid: 9\ndata: {"reason": "pruned"}\n\n')
        await request.send("event: stream-snapshot\nid: 9\ndata: {}\n\n", "id: 10\ndata: 10\n\n")
        await request.until_gone()

    raw_site.answer = answer
    pages = await open_tabs(tabs, raw_site, 3, "/stream/?last_event_id=7")
    for page in pages:
        await until(page, "one.stream.state === 'open'")
    await streams_settle_at(raw_site, 1)
    all_follow.set()
    for page in pages:
        await until(page, "one.log.some(([type, data]) => data === '10')")
        assert [entry[0] for entry in await log_of(page) if entry[0].startswith("on")] == ["onReset", "onSnapshot"]


async def test_late_tab_waits_for_a_snapshot_in_pieces(raw_site: RawSite, tabs: Tabs) -> None:
    """In the meantime, the leader has all that the tab has."""

    async def answer(request: Request) -> None:
        await request.start()
        if len(raw_site.requests) == 1:
            await request.send("event: stream-checkpoint\nid: 7\ndata: {}\n\n")
            while True:
                await request.send(":\n")
                await asyncio.sleep(0.02)
        for piece in (
            "event: stream-checkpoint\nid: 7\ndata: {}\n\nevent: stream-",
            "snapshot\nid: 7\n",
            "data: {}\n\n",
        ):
            await request.send(piece)
            await asyncio.sleep(0.2)
        await request.until_gone()

    raw_site.answer = answer
    await open_tabs(tabs, raw_site, 1, "/stream/")
    await streams_settle_at(raw_site, 1)
    [late] = await open_tabs(tabs, raw_site, 1, "/stream/")
    await until(late, "one.log.some(([name]) => name === 'onSnapshot')")
