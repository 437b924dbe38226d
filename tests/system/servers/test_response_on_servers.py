"""EventStreamResponse over real sockets: on every ASGI server, alone and behind middleware, and refused under WSGI."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.clients import StreamClient
from tests.support.services import free_port
from tests.support.sites import PYTHON, SERVERS, Server, Site, copy_sqlite
from tests.system.servers.conftest import OURS, STOCK
from tests.system.servers.holdings import ask, holdings, until

pytestmark = pytest.mark.once

HEARTBEAT = b":\n"
MIDDLEWARE = [
    "django.middleware.gzip.GZipMiddleware",
    "tests.support.middleware.slow",
    "tests.support.middleware.wrap_content",
    "tests.support.middleware.sync_only",
]


@dataclass
class Served:
    site: Site
    server: Server
    name: str
    behind_middleware: bool

    async def open(self, path: str, **headers: str) -> StreamClient:
        client = StreamClient(self.server.port, f"/test/response/{path}", headers=headers)
        return await client.connect(receive_buffer=4096)

    async def journal(self, key: str) -> list[Any]:
        return list((await ask(self.server, f"/test/response/journal/?key={key}"))["journal"])

    async def notes(self, key: str, expected: list[Any]) -> None:
        """Wait until the iterator has noted what is expected."""
        async with asyncio.timeout(20):
            while (found := await self.journal(key)) != expected:
                assert len(found) <= len(expected), found
                await asyncio.sleep(0.05)


EVERYWHERE = [(server, how) for server in SERVERS for how in ("alone", "middleware")]


def only(*served: tuple[str, str]) -> pytest.MarkDecorator:
    """Run the test on these of the servers."""
    return pytest.mark.parametrize("served", served, indirect=True, ids="-".join, scope="module")


behind_middleware = only(*[(server, how) for server, how in EVERYWHERE if how == "middleware"])
# daphne's own `send` never waits; streams.asgi makes it.
where_send_waits = only(*[served for served in EVERYWHERE if served != ("daphne", "alone")])


@pytest.fixture(scope="module", params=EVERYWHERE, ids="-".join)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Each server under Django's stock handler on PostgreSQL, and under ours, behind middleware, on SQLite."""
    name, behind = request.param
    folder = tmp_path_factory.mktemp("site")
    if behind == "middleware":
        copy_sqlite(request.getfixturevalue("migrated_sqlite"), folder / "db.sqlite3")
        # No heartbeats but where a test asks for them: a client that has left is to be noticed without.
        site = Site(f"sqlite:///{folder / 'db.sqlite3'}", folder).settings(HEARTBEAT_SECONDS=3600)
        server = site.serve(name, OURS, TEST_MIDDLEWARE=json.dumps(MIDDLEWARE))
    else:
        postgres = request.getfixturevalue("postgres")
        database = postgres.create_database(template=request.getfixturevalue("migrated_postgres"))
        site = Site(postgres.dsn(database), folder, postgres).settings(HEARTBEAT_SECONDS=3600)
        server = site.serve(name, STOCK)
    yield Served(site, server, name, behind == "middleware")
    site.close()
    log = server.log.read_text()
    assert log.count("Traceback (most recent call last)") == log.count("LookupError: the password is hunter2"), log
    assert "never retrieved" not in log
    assert "was destroyed but it is pending" not in log


@pytest.fixture
def key() -> str:
    """Under which an iterator keeps its notes."""
    return uuid4().hex


async def rest(client: StreamClient) -> bytes:
    """All that still comes. Fails where the response does not end as HTTP has it."""
    async with asyncio.timeout(30):
        pieces = []
        while piece := await client.chunk():
            pieces.append(piece)
        return b"".join(pieces)


# --- What is sent -----------------------------------------------------------------------------------------------------


async def test_items_of_every_kind_are_sent(served: Served) -> None:
    client = await served.open("kinds/")
    assert (await rest(client)).removeprefix(HEARTBEAT).decode() == (
        "data: text\n\n"
        "data: two\ndata: lines\n\n"
        'data: {"a":[1,null,"é"]}\n\n'
        "data: [1,2]\n\n"
        "data: 3.5\n\n"
        ": a comment, as it is\n\n"
        "retry: 1234\nevent: greeting\nid: 7\ndata: typed\n\n"
        'id: 8\ndata: {"day":"2026-11-22"}\n\n'
    )


@pytest.mark.parametrize("size", [70_000, 200_000, 3_000_000])
@pytest.mark.parametrize("path", ["large/", "one-chunk/"])
async def test_answer_larger_than_a_servers_buffer_comes_to_its_end(served: Served, path: str, size: int) -> None:
    _, writer = connection = await asyncio.open_connection("127.0.0.1", served.server.port)
    writer.write(f"GET /test/response/{path}?bytes={size} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await asyncio.sleep(0.2)  # so that it does not all go through at once
    async with asyncio.timeout(30):
        answer = await connection[0].read()
    assert answer.count(b"x") >= size
    writer.close()


@pytest.mark.parametrize("path", ["numbers/", "sync-numbers/"])
async def test_headers(served: Served, path: str) -> None:
    client = await served.open(path, **{"Accept-Encoding": "gzip, br"})
    await rest(client)
    assert client.status == 200
    sent = client.response_headers
    assert sent["content-type"] == "text/event-stream; charset=utf-8"
    assert sent["cache-control"] == "no-cache, no-transform"
    assert sent["x-accel-buffering"] == "no"
    assert "content-encoding" not in sent
    assert "content-length" not in sent
    assert sent.get("x-sync-middleware") == ("was here" if served.behind_middleware else None)


@pytest.mark.parametrize("path", ["numbers/?n=2&pause=60", "sync-numbers/?n=2&pause=60"])
async def test_each_event_is_sent_at_once_and_plain(served: Served, path: str) -> None:
    client = await served.open(path, **{"Accept-Encoding": "gzip"})
    assert [event.data for event in await client.read_until(1)] == ["0"]
    client.abort()


async def test_response_without_an_item_begins_at_once(served: Served, key: str) -> None:
    client = await served.open(f"held/?key={key}")  # returns when the headers have come
    assert client.status == 200
    client.abort()
    await served.notes(key, ["held", "let go"])


async def test_silent_stream_sends_heartbeats(served: Served, key: str) -> None:
    client = await served.open(f"endless/?key={key}&heartbeat=0.1")
    async with asyncio.timeout(30):
        while not client.raw.endswith(HEARTBEAT * 5):
            assert await client.read()
    assert [event.data for event in client.events] == ["first"]
    client.abort()
    await served.notes(key, ["started", "closed"])


# --- How it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["timeout=1", "lives=1"])
async def test_stream_ends_when_its_time_is_over(served: Served, key: str, end: str) -> None:
    client = await served.open(f"endless/?key={key}&{end}")
    assert (await rest(client)).endswith(b"data: first\n\n")
    await served.notes(key, ["started", "closed"])


async def test_exception_is_logged_and_gives_nothing_away(served: Served) -> None:
    client = await served.open("failing/")
    while await client.read():
        pass
    assert [event.data for event in client.events] == ["before"]
    assert [event.event for event in client.control] == ["stream-error"]
    assert b"LookupError" not in client.raw
    assert b"hunter2" not in client.raw
    log = served.server.log.read_text()
    assert "LookupError: the password is hunter2" in log
    assert "tests/support/response_views.py" in log


async def test_client_that_leaves_a_silent_stream_closes_its_iterator(served: Served, key: str) -> None:
    client = await served.open(f"endless/?key={key}")
    await client.read_until(1)
    await client.close()
    await served.notes(key, ["started", "closed"])


async def test_client_that_leaves_a_busy_stream_closes_its_iterator(served: Served, key: str) -> None:
    client = await served.open(f"chatty/?key={key}")
    await client.read_until(100)
    client.abort()
    await closed(served, key)


async def test_clients_that_leave_one_after_the_other_leave_nothing_behind(served: Served) -> None:
    """Some before the first byte was sent, some after a few of them."""
    keys = [uuid4().hex for _ in range(30)]
    for n, key in enumerate(keys):
        client = await served.open(f"endless/?key={key}")
        if n % 3:
            await client.read_until(1)
        client.abort()
    for key in keys:
        async with asyncio.timeout(20):
            while (found := await served.journal(key)) not in ([], ["started", "closed"]):
                assert found == ["started"]
                await asyncio.sleep(0.05)
    async with asyncio.timeout(20):  # those that had not begun when they were looked at, too
        while ["started"] in [await served.journal(key) for key in keys]:
            await asyncio.sleep(0.05)


@behind_middleware
@pytest.mark.parametrize("path", ["held/", "sync-held/"])
async def test_client_that_leaves_before_the_stream_begins_closes_its_iterator(
    served: Served, key: str, path: str
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    writer.write(f"GET /test/response/{path}?key={key}&slow=60 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await served.notes(key, ["held"])
    writer.close()
    await served.notes(key, ["held", "let go"])


# --- What an iterator may do ------------------------------------------------------------------------------------------


async def test_iterator_may_query_and_gives_thread_and_connection_back_in_silence(served: Served, key: str) -> None:
    client = await served.open(f"numbers/?key={key}")  # so that the process has all that it needs anyway
    await rest(client)
    before = await holdings(served.server)
    clients = [await served.open(f"database/?key={key}&heartbeat=0.1") for _ in range(10)]
    await asyncio.gather(*(client.read_until(3) for client in clients))
    notes = await served.journal(key)
    assert len(notes) >= 30
    assert not any(note["was_open"] for note in notes)
    await until(served.server, lambda found: found["threads"] <= before["threads"] + 2, "few threads with ten streams")
    if served.site.postgres is not None:
        postgres, database = served.site.postgres, served.site.database_url.rpartition("/")[2]
        async with asyncio.timeout(30):
            while await asyncio.to_thread(postgres.connections, database) > 1:
                await asyncio.sleep(0.05)
    for client in clients:
        client.abort()


async def test_heartbeats_are_sent_while_sync_code_keeps_the_thread(served: Served) -> None:
    client = await served.open("busy-thread/?seconds=2&heartbeat=0.1")
    await client.read_until(1)
    assert [event.data for event in client.events] == ["done"]
    assert client.raw.partition(b"data:")[0].count(HEARTBEAT) > 5


async def test_timeouts_tasks_and_context_variables_may_be_open_over_several_items(served: Served) -> None:
    client = await served.open("one-task/?heartbeat=0.05")
    assert [event.data for event in await client.read_until(5)] == ["1", "2", "2", "timed out", "0"]
    assert await rest(client) == b""


async def waiting_iterator(served: Served, key: str) -> tuple[StreamClient, int]:
    """A client that does not read, once the iterator has come to rest; and how many items there were by then."""
    client = await served.open(f"chatty/?key={key}&bytes=65536")
    async with asyncio.timeout(60):
        rested, last = 0, list[int]()
        while rested < 10 or not last:  # it may not have begun
            now = await served.journal(key)
            rested, last = (rested + 1, last) if now == last else (0, now)
            await asyncio.sleep(0.1)
    return client, last[0]


async def closed(served: Served, key: str) -> None:
    async with asyncio.timeout(20):
        while (await served.journal(key))[1:] != ["closed"]:
            await asyncio.sleep(0.05)


@where_send_waits
async def test_iterator_waits_while_the_client_does_not_read(served: Served, key: str) -> None:
    client, count = await waiting_iterator(served, key)
    assert 0 < count < 500  # some in the buffers of the kernel and of the server: 32 MB would be too much
    await client.read_until(count + 50)
    assert [int(event.data.split()[0]) for event in client.events] == list(range(len(client.events)))
    client.abort()
    await closed(served, key)


@where_send_waits
async def test_client_that_leaves_while_the_iterator_waits_for_it_closes_it(served: Served, key: str) -> None:
    client, _ = await waiting_iterator(served, key)
    client.abort()
    await closed(served, key)


# --- Under WSGI -------------------------------------------------------------------------------------------------------

SERVE_BY_WSGI = """
import sys
from wsgiref.simple_server import make_server
from django.core.wsgi import get_wsgi_application
make_server("127.0.0.1", int(sys.argv[1]), get_wsgi_application()).serve_forever()
"""


@pytest.fixture(scope="module", params=["alone", "middleware"])
def wsgi_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path
) -> Iterator[Server]:
    """A server that has one worker and one thread: whoever keeps it keeps everyone else waiting."""
    folder = tmp_path_factory.mktemp("site")
    copy_sqlite(migrated_sqlite, folder / "db.sqlite3")
    site = Site(f"sqlite:///{folder / 'db.sqlite3'}", folder)
    env = {**site.env, "TEST_MIDDLEWARE": json.dumps(MIDDLEWARE if request.param == "middleware" else [])}
    port = free_port()
    server = Server([PYTHON, "-c", SERVE_BY_WSGI, str(port)], port, env, folder / "wsgiref.log")
    yield server.start()
    server.stop()


def get_error(server: Server, path: str) -> tuple[int, str, str]:
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"{server.url}{path}", timeout=30)
    with raised.value as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_log_stream_under_wsgi_is_refused_at_once(wsgi_server: Server) -> None:
    for _ in range(3):
        status, content_type, text = get_error(wsgi_server, "/events/news/")
        assert status == 500
        assert content_type == "application/json"
        error = json.loads(text)["error"]
        assert error["code"] == "asgi-required"
        assert "Serve the site's `asgi.application` with daphne" in error["message"]
    assert wsgi_server.json("/test/response/quick/") == {}


@pytest.mark.parametrize("path", ["endless/?key=x", "numbers/", "sync-numbers/", "held/?key=x", "sync-held/?key=x"])
def test_stream_of_a_views_own_under_wsgi_is_refused_at_once(wsgi_server: Server, path: str) -> None:
    for _ in range(3):
        status, content_type, text = get_error(wsgi_server, f"/test/response/{path}")
        assert status == 500
        assert content_type == "text/plain; charset=utf-8"
        assert "Serve the site's `asgi.application` with daphne" in text
    assert wsgi_server.json("/test/response/quick/") == {}
    log = wsgi_server.log.read_text()
    assert "Event streams need ASGI" in log
    assert "Traceback" not in log
