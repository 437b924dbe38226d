"""The EventSource of Chromium and of Firefox with our streams. The two keep the last event id differently."""

import json
import signal

import pytest

from tests.support.sites import Server, Site
from tests.system.browser.conftest import Probe, Visit

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

WIRE_TEXTS = [
    "plain",
    "",
    " ",
    "  two spaces in front",
    "one space after ",
    "a\nb\n\nc",
    "\nin front",
    "behind\n",
    "\n",
    "a\r\nb\rc\r\r\nd",
    "\r",
    "\ufeffa byte order mark",
    "next line\u0085line separator\u2028paragraph separator\u2029form feed\fvertical tab\v",
    "😀 ünïcödé 漢字 \U0010ffff e\u0301",
    "data: x\n\nevent: y\nid: 9\nretry: 1\n: comment",
    ":",
    "id: 1",
    "\ttab",
    "\x01\x02\x7f",
    '<script>window.hacked = 1</script>&amp;"',
    '{"json": [1, 2, null]}',
    "x" * 200_000,
    ("y" * 100 + "\n") * 1000,
]


def start(site: Site, probe: Probe) -> Server:
    site.settings(RETRY_MILLISECONDS=200)
    return site.serve(PROBE_FILE=str(probe.file))


async def test_every_text_arrives_as_it_was_published(site: Site, probe: Probe, visit: Visit) -> None:
    server = start(site, probe)
    await visit(f"{server.url}/test/browser/?stream=/events/news/")
    await probe.until(lambda: probe.events(control=True), "first checkpoint")
    code = "import json, sys\nfrom streams import publish\nfor text in json.load(sys.stdin): publish('news', text)"
    publisher = site.script(code)
    _, errors = publisher.communicate(json.dumps(WIRE_TEXTS), timeout=120)
    assert publisher.returncode == 0, errors
    await probe.until(lambda: len(probe.events()) >= len(WIRE_TEXTS), "arrival of all texts")
    received = [event["data"] for event in probe.events()]
    assert received == [text.replace("\r\n", "\n").replace("\r", "\n") for text in WIRE_TEXTS]
    assert not probe.records("error")


async def test_onopen_fires_on_a_quiet_channel(sqlite_site: Site, probe: Probe, visit: Visit) -> None:
    server = start(sqlite_site, probe)
    await visit(f"{server.url}/test/browser/?stream=/events/news/")
    await probe.until(lambda: probe.records("open"), "open event")
    assert probe.events() == []
    assert not probe.records("error")


async def test_server_killed_and_started_again_gives_each_event_once_in_order(
    site: Site, probe: Probe, visit: Visit
) -> None:
    server = start(site, probe)
    await visit(f"{server.url}/test/browser/?stream=/events/news/")
    await probe.until(lambda: probe.events(control=True), "first checkpoint")
    positions: list[int] = []

    def live() -> None:
        burst = server.json("/test/burst/?n=3")
        positions.extend(range(burst["first"], burst["last"] + 1))

    for _ in range(2):
        live()
        await probe.until(lambda: len(probe.events()) == len(positions), "arrival of the live events")
        server.stop(signal.SIGKILL)
        for number in range(2):
            positions.append(int(site.manage("publish", "news", f"while it was down {number}").stdout))
        server.start()
        live()  # some are replayed and some are live, because the browser is reconnecting
    last = int(site.manage("publish", "news", "last").stdout)
    await probe.until(lambda: probe.events()[-1]["data"] == "last", "arrival of the last event")
    assert [int(event["id"]) for event in probe.events()] == [*positions, last]
    assert not [event for event in probe.events(control=True) if event["type"] == "stream-reset"]
    assert probe.records("error")  # the browser noticed the lost connection


async def test_browser_that_had_only_a_checkpoint_comes_back_with_its_id(
    sqlite_site: Site, probe: Probe, visit: Visit
) -> None:
    for text in ("one", "two"):
        sqlite_site.manage("publish", "news", text)
    server = start(sqlite_site, probe)
    await visit(f"{server.url}/test/browser/?stream=/test/browser/stream/news/")
    await probe.until(lambda: probe.events(control=True), "first checkpoint")
    server.stop(signal.SIGKILL)
    sqlite_site.manage("publish", "news", "three")
    server.start()
    await probe.until(probe.events, "arrival of the message published while the server was down")
    assert [request["header"] for request in probe.records("request")] == [None, "2"]
    assert [(event["id"], event["data"]) for event in probe.events()] == [("3", "three")]


async def test_header_of_a_browser_that_comes_back_wins_over_the_url_that_it_repeats(
    sqlite_site: Site, probe: Probe, visit: Visit
) -> None:
    for text in ("one", "two", "three"):
        sqlite_site.manage("publish", "news", text)
    server = start(sqlite_site, probe)
    await visit(f"{server.url}/test/browser/?stream=/test/browser/stream/news/%3Flast_event_id=1")
    await probe.until(lambda: len(probe.events()) == 2, "replay")
    server.stop(signal.SIGKILL)
    sqlite_site.manage("publish", "news", "four")
    server.start()
    await probe.until(lambda: len(probe.events()) >= 3, "arrival of the message published while the server was down")
    first, second = probe.records("request")
    assert (first["header"], first["query"]) == (None, {"last_event_id": "1"})
    assert (second["header"], second["query"]) == ("3", {"last_event_id": "1"})
    assert [event["data"] for event in probe.events()] == ["two", "three", "four"]


async def test_id_of_another_log_gives_a_reset_and_then_what_there_is(
    sqlite_site: Site, probe: Probe, visit: Visit
) -> None:
    for text in ("one", "two"):
        sqlite_site.manage("publish", "news", text)
    server = start(sqlite_site, probe)
    await visit(f"{server.url}/test/browser/?stream=/events/news/%3Flast_event_id=999")
    await probe.until(lambda: len(probe.events()) == 2, "replay")
    reset, *_ = probe.events(control=True)
    assert reset["type"] == "stream-reset"
    assert json.loads(reset["data"])["reason"] == "unknown-id"
    assert [event["data"] for event in probe.events()] == ["one", "two"]
