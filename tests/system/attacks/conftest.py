"""The site under attack: one server process for all attacks that do not change its settings, and its users."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.relay.conftest import SECRET as UPSTREAM_KEY
from tests.relay.conftest import Relay, UpstreamProcess, make_relay
from tests.support import clients
from tests.support.sites import Server, Site, copy_sqlite, finish
from tests.system.attacks.raw import ask, get, stream

LISTED = "https://app.example"

# Django logs these refusals with a stack.
REFUSALS = r"^[a-z.]+\.(DisallowedHost|RequestDataTooBig|TooManyFieldsSent|InvalidToken|PermissionDenied)(:|$)"

MAKE_USER = """
import sys
from django.contrib.auth import get_user_model
name, password, is_staff = sys.argv[1:]
print(get_user_model().objects.create_user(name, password=password, is_staff=bool(is_staff)).pk)
"""

MAKE_TOKEN = """
import json, sys
from streams.tokens import make_token
print(make_token(**json.loads(sys.argv[1])))
"""


@dataclass(frozen=True)
class Person:
    """A user, and the Cookie header of a session."""

    pk: int
    cookie: str

    @property
    def channel(self) -> str:
        return f"user.{self.pk}"


@dataclass
class Attacked:
    site: Site
    server: Server

    def __post_init__(self) -> None:
        port = self.server.port
        self.ask = partial(ask, port)
        self.get = partial(get, port)
        self.stream = partial(stream, port)

    def user(self, name: str, **attributes: Any) -> Person:
        """Log a user in, and create the user first if necessary."""
        cookie = self.server.log_in(name, **attributes)
        [(pk,)] = self.site.execute(f"SELECT id FROM auth_user WHERE username = '{name}'")
        return Person(pk, cookie)

    @property
    def editor(self) -> Person:
        """Return a superuser."""
        return self.user("editor", is_staff=True, is_superuser=True)

    def messages(self) -> int:
        """Return the number of messages in the log."""
        [(count,)] = self.site.execute("SELECT count(*) FROM streams_message")
        return int(count)

    def serves(self) -> bool:
        """Return True if a well-behaved client gets its stream."""
        return self.stream("/events/news/").status == 200


def site_in(folder: Path, template: Path) -> Site:
    copy_sqlite(template, folder / "db.sqlite3")
    return Site(f"sqlite:///{folder / 'db.sqlite3'}", folder)


def make_user(site: Site, name: str, password: str, *, is_staff: bool = False) -> int:
    """Create a user with a password, and return the primary key."""
    return int(finish(site.script(MAKE_USER, name, password, "yes" if is_staff else "")))


def make_token(site: Site, what: str) -> str:
    """Return a token of this site. `what` contains the arguments of streams.tokens.make_token() as JSON."""
    return finish(site.script(MAKE_TOKEN, what)).strip()


@pytest.fixture(scope="session")
def attacked(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """Run the demo site under uvicorn, with one other origin allowed. At the end, check its log for exceptions."""
    site = site_in(tmp_path_factory.mktemp("attacked"), migrated_sqlite)
    server = site.serve(CORS_ALLOWED_ORIGINS=LISTED, CHAT_LINE_SECONDS="0.01")
    yield Attacked(site, server)
    site.close()
    for record in re.split(r"^(?=\d{4}-)", server.log.read_text(), flags=re.MULTILINE):
        assert "Traceback" not in record or re.search(REFUSALS, record, re.MULTILINE), record


@dataclass
class Canary:
    """A port of this machine that nothing should connect to. `touched()` counts the connections."""

    listening: socket.socket

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def touched(self) -> int:
        count = 0
        self.listening.settimeout(0.05)
        while True:
            try:
                self.listening.accept()[0].close()
            except TimeoutError:
                return count
            count += 1


@pytest.fixture(scope="session")
def canary() -> Iterator[Canary]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield Canary(listening)


@pytest.fixture(scope="session")
def relaying(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory, canary: Canary) -> Iterator[Relay]:
    """Run the demo site with a scripted upstream. The environment names a proxy, which the relay must not use."""
    upstream = UpstreamProcess()
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), canary.url)
    made = make_relay(migrated_sqlite, tmp_path_factory.mktemp("relaying"), upstream, **proxies)
    yield made
    made.site.close()
    upstream.stop()
    log = made.server.log.read_text()
    assert "Traceback" not in log, log
    assert UPSTREAM_KEY not in log


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    """Close the connections that a test's clients left open."""
    yield
    clients.leave_all()
