"""A stream on the direct way: what it holds while it is quiet, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest
from django.test import override_settings

from streams import apublish
from streams.delivery.subscriber import open_streams
from streams.direct.application import with_direct_streams
from streams.policies import DefaultPolicy
from streams.private import servers
from tests.views.support import SECONDS, SKIPPED

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("tests.direct.urls")]

seen: list[Any] = []


class Waits(DefaultPolicy):
    """A policy that waits, and records how that ends."""

    def denied_channels(self, request: HttpRequest, channels: Any) -> list[str]:
        return []

    async def adenied_channels(self, request: HttpRequest, channels: Any) -> list[str]:
        seen.append("asked")
        try:
            await asyncio.sleep(SECONDS)
        finally:
            seen.append("cancelled")
        return []


class Connection:
    """A server's side of one request. `fail` makes its send raise."""

    def __init__(self, path: str = "/events/news/") -> None:
        self.sent: list[dict[str, Any]] = []
        self.changed = asyncio.Event()
        self.gone = asyncio.Event()
        self.fail: type[Exception] | None = None
        headers = [(b"host", b"testserver")]
        self.scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers}
        self.task = asyncio.create_task(with_direct_streams(None, SKIPPED)(self.scope, self.receive, self.send))  # type: ignore[arg-type]

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.fail is not None:
            raise self.fail("the connection is broken")
        self.sent.append(message)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                await asyncio.sleep(0.01)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def opened(self) -> Connection:
        await self.until(lambda: b"stream-checkpoint" in self.body)
        await asyncio.sleep(0.05)
        return self


@pytest.fixture(autouse=True)
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(servers, "KNOWN", (__name__,))
    seen.clear()
    with override_settings(STREAMS={"PUBLIC_CHANNELS": ["news"], "HEARTBEAT_SECONDS": 0.3}):
        yield


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    connection = Connection()
    yield await connection.opened()
    connection.gone.set()
    async with asyncio.timeout(SECONDS):
        await connection.task
    assert open_streams() == 0


def names() -> list[str]:
    return sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks())  # type: ignore[union-attr]


async def test_quiet_stream_has_no_task_but_the_servers(connection: Connection) -> None:
    assert [name for name in names() if "Exchange" in name or "Subscriber" in name] == []
    before = len(connection.sent)
    await connection.until(lambda: len(connection.sent) >= before + 2)
    assert connection.body.endswith(b":\n:\n"), "the heartbeats are sent"
    await apublish("news", "hello")
    await connection.until(lambda: b"data: hello" in connection.body)


async def test_stream_releases_everything_when_its_client_leaves() -> None:
    connection = await Connection().opened()
    found = [one for one in gc.get_objects() if type(one) is ASGIRequest]
    [request] = [one for one in found if one.scope is connection.scope]
    del found
    ref = weakref.ref(request)
    del request
    connection.gone.set()
    await connection.task
    await asyncio.sleep(0.05)
    gc.collect()
    assert (open_streams(), ref()) == (0, None)


async def test_client_that_leaves_cancels_the_view() -> None:
    with override_settings(STREAMS={"POLICY": f"{__name__}.Waits"}):
        connection = Connection()
        await connection.until(lambda: seen == ["asked"])
        connection.gone.set()
        async with asyncio.timeout(SECONDS):
            await connection.task
    assert (seen, connection.sent) == (["asked", "cancelled"], [])


async def test_cancellation_by_the_server_is_passed_on() -> None:
    connection = await Connection().opened()
    connection.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connection.task
    assert open_streams() == 0


async def test_error_of_the_servers_send_reaches_the_server() -> None:
    connection = await Connection().opened()
    connection.fail = OSError
    with pytest.raises(OSError, match="the connection is broken"):
        async with asyncio.timeout(SECONDS):
            await connection.task
    assert open_streams() == 0


async def test_response_that_ends_ends_the_request() -> None:
    connection = Connection("/short/news/")
    async with asyncio.timeout(SECONDS):
        await connection.task
    assert connection.sent[-1] == {"type": "http.response.body"}
    assert open_streams() == 0


async def test_stream_that_is_cut_stays_incomplete() -> None:
    from streams.http.shutdown import _process

    connection = await Connection().opened()
    [stream] = [one for streams in _process._streams.values() for one in streams]
    stream.cut()
    async with asyncio.timeout(SECONDS):
        await connection.task
    assert connection.sent[-1].get("more_body") is True
    assert open_streams() == 0
