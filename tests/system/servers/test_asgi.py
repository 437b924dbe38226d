"""streams.asgi makes daphne's `send` wait for clients that do not read, and leaves the other servers' `send` unchanged.
It also answers the lifespan protocol."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from streams.asgi import get_asgi_application, with_backpressure
from tests.support.clients import StreamClient
from tests.support.sites import SERVERS, Server, Site, command
from tests.system.servers.holdings import ask

OURS = "project.asgi:application"
STOCK = "tests.support.asgi:application"


# --- In this process --------------------------------------------------------------------------------------------------


class Calls(list[tuple[Any, ...]]):
    """An ASGI application that records the arguments of its calls."""

    async def __call__(self, *args: Any) -> None:
        self.append(args)


async def receive() -> Any: ...


async def send(message: Any) -> None: ...


class HasSend:
    async def send(self, message: Any) -> None: ...


@pytest.mark.parametrize("scope", [{"type": kind} for kind in ("http", "websocket", "lifespan")], ids=str)
@pytest.mark.parametrize("server_send", [send, HasSend().send, partial(send), partial(HasSend().send)], ids=range(4))
async def test_application_gets_the_servers_own_send(scope: Any, server_send: Any) -> None:
    calls = Calls()
    await with_backpressure(calls)(scope, receive, server_send)
    [(got_scope, got_receive, got_send)] = calls
    assert got_scope is scope
    assert got_receive is receive
    assert got_send is server_send


async def test_exception_of_the_application_reaches_the_server() -> None:
    async def fail(*args: Any) -> None:
        raise LookupError("a server logs it")

    with pytest.raises(LookupError, match="a server logs it"):
        await with_backpressure(fail)({"type": "http"}, receive, send)


async def test_application_is_djangos() -> None:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/test/response/quick/",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    server = ApplicationCommunicator(get_asgi_application(), scope)
    await server.send_input({"type": "http.request"})
    start = await server.receive_output(10)
    body = await server.receive_output(10)
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert (body["type"], body["body"], body.get("more_body", False)) == ("http.response.body", b"{}", False)
    await server.wait(10)


async def test_application_inside_of_middleware_keeps_the_backpressure() -> None:
    """The middleware's own `send` is not the one of daphne."""
    calls = Calls()
    request = SimpleNamespace(uri=b"/", channel=None, registerProducer=None, unregisterProducer=None)
    await get_asgi_application(calls)({"type": "http"}, receive, partial(send, request))
    [(_, _, got_send)] = calls
    assert got_send.__self__._request is request


@pytest.mark.parametrize("app", [None, Calls()], ids=["Django's", "given"])
async def test_lifespan_is_answered_to_its_end(app: Any) -> None:
    server = ApplicationCommunicator(get_asgi_application(app), {"type": "lifespan", "asgi": {"version": "3.0"}})
    for event in ("startup", "shutdown"):
        await server.send_input({"type": f"lifespan.{event}"})
        assert await server.receive_output(10) == {"type": f"lifespan.{event}.complete"}
    await server.wait(10)


# --- On servers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def daphne(sqlite_site: Site) -> Iterator[Server]:
    """Run daphne with Streams' application and a SEND_TIMEOUT_SECONDS of one second."""
    server = sqlite_site.settings(SEND_TIMEOUT_SECONDS=1).serve("daphne", OURS)
    yield server
    assert "Traceback" not in server.log.read_text()


async def stuck_client(server: Server, key: str) -> StreamClient:
    """Open a stream whose client does not read."""
    client = StreamClient(server.port, f"/test/response/chatty/?key={key}&bytes=65536")
    await client.connect(receive_buffer=4096)
    return client


async def closed(server: Server, key: str) -> int:
    """Wait until the iterator is closed, and return the number of items that it produced."""
    async with asyncio.timeout(30):
        while len(journal := (await ask(server, f"/test/response/journal/?key={key}"))["journal"]) < 2:
            await asyncio.sleep(0.05)
    return int(journal[0])


@pytest.mark.once
async def test_connection_of_a_client_that_was_cut_is_aborted(daphne: Server) -> None:
    client = await stuck_client(daphne, "cut")
    given = await closed(daphne, "cut")
    async with asyncio.timeout(30):
        while await client.read():  # the bytes already in the buffers, and then the end of the connection
            pass
    assert len(client.events) < given
    assert daphne.json("/test/response/quick/") == {}


@pytest.mark.once
async def test_client_that_leaves_while_send_waits_is_noticed(daphne: Server) -> None:
    client = await stuck_client(daphne, "left")
    await asyncio.sleep(0.3)
    client.abort()
    await closed(daphne, "left")


@pytest.mark.once
async def test_slow_reader_that_goes_on_in_time_misses_nothing(daphne: Server) -> None:
    client = await stuck_client(daphne, "slow")
    for n in range(1, 9):
        await asyncio.sleep(0.2)
        await client.read_until(25 * n)
    assert [int(event.data.split()[0]) for event in client.events] == list(range(len(client.events)))
    client.abort()
    await closed(daphne, "slow")


@pytest.mark.once
@pytest.mark.parametrize("app", [OURS, STOCK])
@pytest.mark.parametrize("name", SERVERS)
def test_connection_is_used_again_after_a_stream_has_ended(sqlite_site: Site, name: str, app: str) -> None:
    server = sqlite_site.serve(name, app)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for _ in range(3):
        connection.request("GET", "/test/response/numbers/?n=3")
        response = connection.getresponse()
        assert response.read().endswith(b"data: 0\n\ndata: 1\n\ndata: 2\n\n")
        connection.request("GET", "/test/response/quick/")
        assert json.load(connection.getresponse()) == {}
    connection.close()


@pytest.mark.once
@pytest.mark.parametrize("name", ["uvicorn", "granian", "hypercorn"])
def test_servers_start_and_end_without_a_word_about_lifespan(sqlite_site: Site, name: str) -> None:
    """daphne does not speak this protocol."""
    server = sqlite_site.serve(name, OURS)
    assert server.json("/test/response/quick/") == {}
    server.stop(signal.SIGTERM)
    log = server.log.read_text()
    assert "lifespan" not in log.lower()
    assert "Traceback" not in log


@pytest.mark.once
def test_uvicorn_that_insists_on_lifespan_starts(sqlite_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--lifespan on`, an exception at startup ends the server."""
    monkeypatch.setattr("tests.support.sites.command", lambda *args: [*command(*args), "--lifespan", "on"])
    assert sqlite_site.serve("uvicorn", OURS).json("/test/response/quick/") == {}
