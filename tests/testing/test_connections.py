"""StreamClient and SyncStreamClient over HTTP, with a server that answers byte by byte as a test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from streams.testing import StreamClient, StreamNotOpened, SyncStreamClient
from tests.support.services import free_port

pytestmark = pytest.mark.once

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN_HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"


def chunk(text: str) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text.encode()), text.encode())


class RawServer:
    """Answers each connection with the next of its answers, and closes it. After the last, connections stay open."""

    def __init__(self, *answers: bytes) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._answers = list(answers)
        self._open: list[socket.socket] = []
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.requests.append(connection.recv(65_536).decode())
            connection.sendall(self._answers.pop(0))
            if self._answers:
                connection.close()
            else:
                self._open.append(connection)
                self._answers.append(HEAD)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # ends the thread's accept()
        self._listening.close()
        for connection in self._open:
            connection.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def start(*answers: bytes) -> RawServer:
        servers.append(RawServer(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    "first",
    [
        HEAD + chunk("id: 1\ndata: one\n\n") + b"0\r\n\r\n",  # a clean end
        HEAD + chunk("id: 1\ndata: one\n\n"),  # cut between two chunks
        HEAD + chunk("id: 1\ndata: one\n\n") + b"40\r\nid: 2\ndata: tw",  # cut within a chunk, and within an event
        HEAD + chunk("id: 1\ndata: one\n\n") + b"rubbish\r\n",
        PLAIN_HEAD + b"id: 1\ndata: one\n\nid: 2\nda",
    ],
)
async def test_lost_connection_is_opened_again(serve: Callable[..., RawServer], first: bytes) -> None:
    server = serve(first, b"", HEAD + chunk("id: 2\ndata: two\n\n"))  # the second ends without an answer
    async with StreamClient(server, "/events/") as stream:
        assert [event.data for event in await stream.take(2)] == ["one", "two"]
        assert stream.last_event_id == "2"
    assert ["Last-Event-ID: 1" in request for request in server.requests] == [False, True, True]


def test_sync_client_reads_the_same(serve: Callable[..., RawServer]) -> None:
    server = serve(HEAD + chunk("retry: 1\nid: 1\ndata: ö\n\n"), HEAD + chunk("id: 2\nevent: update\ndata: two\n\n"))
    with SyncStreamClient(f"{server.url}/events/?a=b", headers={"X-A": "1"}) as stream:
        assert [event.data for event in stream.take(2)] == ["ö", "two"]
        assert (stream.last_event_id, stream.opened, stream.control) == ("2", 2, [])
        with pytest.raises(TimeoutError, match="after the id '2'"):
            stream.next(timeout=0.05)
        stream.expect_nothing()
    assert server.requests[0].startswith("GET /events/?a=b HTTP/1.1\r\n")
    assert "X-A: 1" in server.requests[0]


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, "the status 204"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login/\r\nContent-Length: 0\r\n\r\n", 302, "the status 302"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi", 200, "type 'text/html': hi"),
    ],
)
def test_other_answers_are_refusals(serve: Callable[..., RawServer], answer: bytes, status: int, text: str) -> None:
    with pytest.raises(StreamNotOpened) as raised, SyncStreamClient(serve(answer, b"").url, "/events/", token="secret"):
        pass
    assert raised.value.status == status
    assert text in str(raised.value)
    assert "secret" not in str(raised.value)


async def test_refusal_while_reconnecting_is_raised(serve: Callable[..., RawServer]) -> None:
    server = serve(HEAD + chunk("data: one\n\n"), b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", b"")
    async with StreamClient(server.url, "/events/") as stream:
        assert (await stream.next()).data == "one"
        with pytest.raises(StreamNotOpened, match="status 503"):
            await stream.next()


async def test_missing_server_is_an_os_error() -> None:
    with pytest.raises(ConnectionRefusedError):
        await StreamClient(f"http://127.0.0.1:{free_port()}", "/").__aenter__()
