"""streams.js in Firefox: three frames of a page share a stream through a lost connection."""

from __future__ import annotations

import asyncio

import pytest

from tests.system.browser.conftest import Visit
from tests.system.browser.raw_log import Log
from tests.system.browser.raw_streams import RawSite, Request

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

FRAMES = b"""<!doctype html><link rel=icon href="data:,"><title>Frames</title>
<iframe src="/frame/?0"></iframe><iframe src="/frame/?1"></iframe><iframe src="/frame/?2"></iframe>"""
FRAME = b"""<!doctype html><link rel=icon href="data:,"><title>Frame</title><script type=module>
import { Stream } from "/static/streams/streams.js";
const stream = new Stream("/stream/?last_event_id=0", { shared: true });
let reported = Promise.resolve();
const frame = location.search.slice(1);
const report = (text) => (reported = reported.then(() => fetch(`/report/?frame=${frame}&text=${text}`)));
stream.onopen = () => report("open");
stream.onmessage = (event) => report(event.data);
</script>"""


async def test_frames_share_a_stream(raw_site: RawSite, in_firefox: Visit) -> None:
    log = Log(raw_site)
    stream, reports = raw_site.answer, {str(n): list[str]() for n in range(3)}

    async def answer(request: Request) -> None:
        if request.path != "/report/":
            return await stream(request)
        reports[request.query["frame"]].append(request.query["text"])
        return await request.start(200, "text/plain")

    async def all_have(texts: list[str]) -> None:
        async with asyncio.timeout(60):
            while not all(texts[-1] in report for report in reports.values()):
                await asyncio.sleep(0.05)
        for report in reports.values():
            assert [text for text in report if text != "open"] == texts

    raw_site.answer = answer
    raw_site.files |= {"/": FRAMES, "/frame/": FRAME}
    await in_firefox(raw_site.url)
    async with asyncio.timeout(60):
        while not all(reports.values()):
            await asyncio.sleep(0.05)
    await log.publish(3)
    await all_have(["1", "2", "3"])
    await log.end_streams()
    await log.publish(2)
    await all_have(["1", "2", "3", "4", "5"])
    assert len([request for request in raw_site.requests if request.path == "/stream/"]) == 2
