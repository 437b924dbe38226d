"""streams.subscribe() in a task of an ASGI server's lifespan."""

from __future__ import annotations

import signal
import time

import pytest

from streams.client import EventSource
from tests.support.sites import Site, finish

pytestmark = [pytest.mark.once, pytest.mark.slow]


def publish_one(text: str) -> None:
    from streams import publish

    publish("news", text)


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn"])
def test_server_follows_a_channel_and_stops_at_once(sqlite_site: Site, name: str) -> None:
    server = sqlite_site.settings(RETRY_MILLISECONDS=200).serve(name, "tests.system.servers.following:application")
    with EventSource(f"{server.url}/events/public.copies/", retry_seconds=0.2, last_event_id="0") as source:
        for text in ("one", "two"):
            finish(sqlite_site.call(publish_one, text))
            assert next(source).data == text
            began = time.monotonic()
            server.stop(signal.SIGTERM, patient=True)
            assert time.monotonic() - began < 20, "it does not wait for the subscription or the stream"
            assert "Traceback" not in server.log.read_text()
            server.start()
