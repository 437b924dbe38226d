"""A site that was written for django-eventstream works with its client, across restarts of the server."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.packages import package
from tests.support.services import missing
from tests.support.sites import Server, Site

pytestmark = pytest.mark.once


class Client:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def take(self, *ignored: str) -> list[str]:
        """Return the next event as [type, data, id], without events of the ignored types."""
        assert self._process.stdout is not None
        while event := json.loads(self._process.stdout.readline()):
            if event[0] not in ignored:
                return event
        raise AssertionError

    def texts(self, count: int) -> list[str]:
        return [json.loads(self.take("stream-open")[1])["text"] for _ in range(count)]


@pytest.fixture
def server(sqlite_site: Site) -> Server:
    sqlite_site.env["DJANGO_SETTINGS_MODULE"] = "tests.system.eventstream.settings"
    return sqlite_site.serve(app="tests.support.asgi:application")


@contextmanager
def client(server: Server, path: str) -> Iterator[Client]:
    packages = package("reconnecting-eventsource").parent
    package("eventsource")
    if (node := shutil.which("node")) is None:
        missing("Node.js", "nodejs")
    script = Path(__file__).with_name("client.mjs")
    process = subprocess.Popen([node, script, server.url + path, packages], stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(120, process.kill)  # a client that gets nothing must not hang the test
    watchdog.start()
    try:
        yield Client(process)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def say(server: Server, text: str, channel: str = "test") -> None:
    with urllib.request.urlopen(f"{server.url}/say/{channel}/?text={quote(text)}", timeout=60):
        pass


def test_client_gets_every_event_once_across_a_restart(server: Server) -> None:
    with client(server, "/events/") as es:
        assert es.take() == ["stream-open", "", ""]
        say(server, "one")
        assert es.take() == ["message", '{"text": "one"}', "1"]
        say(server, "elsewhere", "other")
        for number in range(2):
            server.stop()
            server.start()
            say(server, f"while away {number}")
            assert es.texts(1) == [f"while away {number}"]
        say(server, "last")
        assert es.texts(1) == ["last"]


@pytest.mark.parametrize("path", ["/objects/7/events/", "/channels/object-7/", "/any/?channel=object-7&channel=b"])
def test_routes_choose_the_channels(server: Server, path: str) -> None:
    with client(server, path) as es:
        assert es.take()[0] == "stream-open"
        say(server, "hello", "object-7")
        assert es.take() == ["message", '{"text": "hello"}', "1"]


def test_refusal_reaches_the_listener(server: Server) -> None:
    with client(server, "/channels/_private/") as es:
        kind, data, last_id = es.take()
        assert (kind, last_id) == ("stream-error", "error")
        assert json.loads(data)["condition"] == "forbidden"
        assert json.loads(data)["channels"] == ["_private"]


def test_page_passes_its_cursor_on(server: Server) -> None:
    say(server, "before")
    last_id = server.json("/page/")["last_id"]
    say(server, "in between")
    with client(server, f"/events/?lastEventId={last_id}") as es:
        assert es.texts(1) == ["in between"]
