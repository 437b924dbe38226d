"""Third-party SSE clients receive every message once, also across a restart of the server."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from queue import Queue

import httpx
import httpx_sse
import pytest
import requests_sse
import sseclient

from tests.support.sites import Site, finish

pytestmark = [pytest.mark.once, pytest.mark.slow]

TEXTS = ["one", "two\nlines", "\N{SNOWMAN} and more", '{"n": 4}', "", "after the restart", "end"]

PUBLISH = """
import sys
from streams import publish
for text in sys.argv[1:]:
    publish("news", text, event="note")
"""

Received = Queue[tuple[str, str, str]]  # id, type and data of each event


def with_httpx_sse(url: str, received: Received) -> None:
    """Reconnect here, because httpx-sse does not. sseclient-py does not either."""
    last = ""
    for _ in _attempts():
        try:
            with (
                httpx.Client(timeout=60) as client,
                httpx_sse.connect_sse(client, "GET", url, headers={"Last-Event-ID": last} if last else {}) as source,
            ):
                for event in source.iter_sse():
                    received.put((event.id, event.event, event.data))
                    last = event.id
                    if event.data == TEXTS[-1]:
                        return
        except httpx.TransportError:
            continue


def with_sseclient_py(url: str, received: Received) -> None:
    last = ""
    for _ in _attempts():
        try:
            headers = {"Last-Event-ID": last} if last else {}
            with httpx.stream("GET", url, headers=headers, timeout=60) as response:
                for event in sseclient.SSEClient(response.iter_bytes()).events():
                    received.put((event.id or "", event.event, event.data))
                    last = event.id or last
                    if event.data == TEXTS[-1]:
                        return
        except httpx.TransportError:
            continue


def with_requests_sse(url: str, received: Received) -> None:
    with requests_sse.EventSource(url, max_connect_retry=20, timeout=60) as source:
        for event in source:
            received.put((event.last_event_id, event.type, event.data))
            if event.data == TEXTS[-1]:
                return


CLIENTS = [with_httpx_sse, with_sseclient_py, with_requests_sse]


def _attempts() -> Iterator[None]:
    while True:
        yield
        time.sleep(0.2)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__.removeprefix("with_"))
def test_client_reads_each_message_once(sqlite_site: Site, client: Callable[[str, Received], None]) -> None:
    server = sqlite_site.serve()
    received: Received = Queue()
    threading.Thread(target=client, args=(f"{server.url}/events/news/", received), daemon=True).start()
    assert received.get(timeout=30)[1] == "stream-checkpoint"  # the stream is open
    finish(sqlite_site.script(PUBLISH, *TEXTS[:5]))
    found = [_note(received)]
    server.stop(signal.SIGTERM, patient=True)
    finish(sqlite_site.script(PUBLISH, *TEXTS[5:]))
    server.start()
    while found[-1][2] != TEXTS[-1]:
        found.append(_note(received))
    assert [data for _, _, data in found] == TEXTS
    ids = [int(position) for position, _, _ in found]
    assert ids == list(range(ids[0], ids[0] + len(TEXTS)))


def _note(received: Received) -> tuple[str, str, str]:
    """Wait for the next published event, and return it."""
    while (event := received.get(timeout=60))[1] != "note":
        pass
    return event
