"""Fixtures of the relay's tests: a site and its upstream. Each is a process that runs once for all tests."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.relay.steps import Step
from tests.support import clients
from tests.support.clients import StreamClient
from tests.support.services import accepts, free_port, wait_until
from tests.support.sites import PYTHON, ROOT, Server, Site, copy_sqlite, finish

SECRET = "sk-very-secret-key-1234567890"

LIMITS: dict[str, Any] = {
    "HEARTBEAT_SECONDS": 0.2,
    "RELAY_ACCESS": "streams.relay.access.LoggedIn",
    "RELAY_CONNECT_SECONDS": 1,
    "RELAY_HEADER_DELAY_SECONDS": 0.5,
    "RELAY_FIRST_EVENT_SECONDS": 1.5,
    "RELAY_SILENCE_SECONDS": 1,
    "RELAY_TOTAL_SECONDS": 3,
    "RELAY_MAX_ANSWER_BYTES": 4_000_000,
    "RELAY_MAX_EVENT_BYTES": 2_000_000,
    "RELAY_MAX_STREAMS": 60,
    "RELAY_MAX_STREAMS_PER_USER": 50,
    "RELAY_QUESTIONS_PER_MINUTE": None,
}

USERS = ("ann", "bob", "cleo")

MAKE_KEYS = """
import sys
from django.contrib.auth import get_user_model
from streams.relay.access import make_key
for name in sys.argv[1:]:
    print(make_key(get_user_model().objects.create(username=name), 3600))
"""


class UpstreamProcess:
    def __init__(self) -> None:
        self.port = free_port()
        self._process = subprocess.Popen([PYTHON, "-m", "tests.relay.upstream", str(self.port)], cwd=ROOT)
        wait_until(lambda: accepts(self.port), "the start of the upstream")

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as response:
            return json.load(response)

    async def seen(self, name: str) -> list[dict[str, Any]]:
        """Return the requests with this `user`."""
        return list(await asyncio.to_thread(self._get, f"/seen/{name}"))

    async def connections(self) -> int:
        return int((await asyncio.to_thread(self._get, "/seen"))["connections"])

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass(eq=False)
class Asking(StreamClient):
    """A POST request for an answer, and its response."""

    path: str = "/ai/v1/chat/completions"
    body: bytes = b""
    name: str = ""

    async def ask(self) -> Asking:
        """Send the request."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        headers = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(self.body))}
        lines = [f"{name}: {value}" for name, value in {**headers, **self.headers}.items()]
        head = "\r\n".join([f"POST {self.path} HTTP/1.1", *lines, "", ""])
        self._writer.write(head.encode("latin-1") + self.body)
        return self

    async def head(self) -> Asking:
        """Read the status and the headers of the response."""
        async with asyncio.timeout(20):
            line, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(line.split()[1])
        pairs = (each.split(":", 1) for each in lines if each)
        self.response_headers = {name.lower(): value.strip() for name, value in pairs}
        self._chunk_left = None
        return self

    async def rest(self) -> bytes:
        """Read the body to its end and return it."""
        length = self.response_headers.get("content-length")
        async with asyncio.timeout(20):
            if length is not None:
                return await self._reader.readexactly(int(length))
            while data := await self.chunk():
                self.raw += data
        return bytes(self.raw)

    async def has(self, data: bytes) -> None:
        """Read until `data` has arrived."""
        async with asyncio.timeout(20):
            while data not in self.raw:
                piece = await self.chunk()
                assert piece, f"expected {data!r}; received {bytes(self.raw)!r}"
                self.raw += piece


@dataclass
class Relay:
    site: Site
    server: Server
    upstream: UpstreamProcess
    keys: dict[str, str] = field(default_factory=dict)

    def asking(self, steps: list[Step], *, user: str = "ann", query: str = "", **more: Any) -> Asking:
        """Return a request that makes the upstream follow `steps`. It is not sent yet."""
        name = uuid4().hex
        message = {"role": "user", "content": json.dumps(steps)}
        payload = {"stream": True, "user": name, "messages": [message], **more}
        return self.posting(json.dumps(payload).encode(), user=user, query=query, name=name)

    def posting(self, body: bytes, *, user: str = "ann", query: str = "", name: str = "", **headers: str) -> Asking:
        authorization = {"Authorization": f"Bearer {self.keys[user]}"} if user else {}
        return Asking(
            self.server.port, f"/ai/v1/chat/completions{query}", {**authorization, **headers}, body=body, name=name
        )

    async def ask(self, steps: list[Step], **options: Any) -> Asking:
        """Send a request and read the head of its response."""
        return await (await self.asking(steps, **options).ask()).head()

    async def answer(self, steps: list[Step], **options: Any) -> tuple[int, bytes, dict[str, str]]:
        """Return the status, the body and the headers of a complete answer."""
        asked = await self.ask(steps, **options)
        body = await asked.rest()
        return asked.status, body, asked.response_headers

    async def seen(self, asked: Asking) -> dict[str, Any]:
        """Wait until the request has reached the upstream, and return the upstream's record of it."""
        end = time.monotonic() + 10
        while not (found := await self.upstream.seen(asked.name)):
            assert time.monotonic() < end, "the request did not reach the upstream"
            await asyncio.sleep(0.02)
        return found[-1]

    async def let_go_after(self, asked: Asking, left_at: float) -> float:
        """Return how many seconds after `left_at` the upstream's connection was closed."""
        end = time.monotonic() + 10
        while (lost_at := (await self.seen(asked))["lost_at"]) is None:
            assert time.monotonic() < end, "the upstream's connection is still open"
            await asyncio.sleep(0.02)
        return float(lost_at - left_at)

    def usage(self, user: str) -> list[tuple[Any, ...]]:
        """Return (outcome, completion_tokens, is_estimated, model) of the user's answers, newest first."""
        return self.site.execute(
            "SELECT outcome, completion_tokens, is_estimated, model FROM streams_relay_usage "
            f"WHERE user_id = (SELECT id FROM auth_user WHERE username = '{user}') ORDER BY id DESC"
        )


def make_relay(template: Path, folder: Path, upstream: UpstreamProcess, server: str = "uvicorn", **env: str) -> Relay:
    """Start a site on SQLite that uses this upstream, with API keys for its users."""
    copy_sqlite(template, folder / "db.sqlite3")
    site = Site(f"sqlite:///{folder / 'db.sqlite3'}", folder)
    options = {"base_url": f"http://127.0.0.1:{upstream.port}/v1", "api_key": SECRET, "models": ["m1", "m2"]}
    backend = "streams.relay.upstreams.OpenAICompatible"
    site.settings(**LIMITS, UPSTREAMS={"default": {"BACKEND": backend, "OPTIONS": options}})
    keys = site.script(MAKE_KEYS, *USERS)
    running = site.serve(server, **env)
    return Relay(site, running, upstream, dict(zip(USERS, finish(keys).split(), strict=True)))


@pytest.fixture(scope="session")
def upstream() -> Iterator[UpstreamProcess]:
    process = UpstreamProcess()
    yield process
    process.stop()


@pytest.fixture(scope="session")
def relay(
    migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamProcess
) -> Iterator[Relay]:
    """The demo site under uvicorn, with short limits. The log is checked when the site has stopped."""
    made = make_relay(
        migrated_sqlite,
        tmp_path_factory.mktemp("relay"),
        upstream,
        TEST_MIDDLEWARE='["tests.support.middleware.slow"]',
        HTTP_PROXY="http://127.0.0.1:1",
        http_proxy="http://127.0.0.1:1",
        LOG_LEVEL="INFO",
    )
    yield made
    made.site.close()
    log = made.server.log.read_text()
    assert "Traceback" not in log, log
    assert "never retrieved" not in log
    assert "was destroyed but it is pending" not in log
    assert "Unclosed" not in log
    assert SECRET not in log


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    """Close the connections that a test left open."""
    yield
    clients.leave_all()


@pytest.fixture
def everyone_may_ask(settings: Any) -> Any:
    """Allow generations for all callers, and run no worker. Return the settings, which tests can change."""
    settings.STREAMS = {"RELAY_ACCESS": "streams.relay.access.Everyone", "GENERATION_WORKER": "command"}
    return settings


@pytest.fixture
def ann_client(client: Client) -> Client:
    """Return a client with the session of a user named ann."""
    client.force_login(User.objects.create_user("ann"))
    return client
