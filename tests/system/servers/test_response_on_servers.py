"""EventStreamResponse over real sockets, on every ASGI server, with and without middleware."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.support.clients import StreamClient
from tests.support.sites import SERVERS, Site, copy_sqlite
from tests.system.servers.conftest import OURS, STOCK
from tests.system.servers.holdings import holdings, until
from tests.system.servers.support import MIDDLEWARE, Served

pytestmark = pytest.mark.once

HEARTBEAT = b":\n"
EVERYWHERE = [(server, how) for server in SERVERS for how in ("alone", "middleware")]


def only(*served: tuple[str, str]) -> pytest.MarkDecorator:
    """Run the test on these servers only."""
    return pytest.mark.parametrize("served", served, indirect=True, ids="-".join, scope="module")


behind_middleware = only(*[(server, how) for server, how in EVERYWHERE if how == "middleware"])

# daphne's own `send` never waits. streams.asgi replaces it with one that does.
if_send_waits = only(*[served for served in EVERYWHERE if served != ("daphne", "alone")])


@pytest.fixture(scope="module", params=EVERYWHERE, ids="-".join)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start each server twice: the stock handler on PostgreSQL, and Streams' application with middleware on SQLite."""
    name, behind = request.param
    folder = tmp_path_factory.mktemp("site")
    if behind == "middleware":
        copy_sqlite(request.getfixturevalue("migrated_sqlite"), folder / "db.sqlite3")
        # Heartbeats come only if a test asks for them, because a server must notice a lost client without them.
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
    """Return a key under which an iterator keeps its notes."""
    return uuid4().hex


async def rest(client: StreamClient) -> bytes:
    """Return the remaining bytes. Fail if the response does not end according to HTTP."""
    async with asyncio.timeout(30):
        pieces = []
        while piece := await client.chunk():
            pieces.append(piece)
        return b"".join(pieces)


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
async def test_large_response_is_complete(served: Served, path: str, size: int) -> None:
    """The response is larger than the server's buffers."""
    _, writer = connection = await asyncio.open_connection("127.0.0.1", served.server.port)
    writer.write(f"GET /test/response/{path}?bytes={size} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await asyncio.sleep(0.2)  # time for the server's buffer to fill
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
async def test_events_are_sent_at_once(served: Served, path: str) -> None:
    """The stream is not compressed either."""
    client = await served.open(path, **{"Accept-Encoding": "gzip"})
    assert [event.data for event in await client.read_until(1)] == ["0"]
    client.abort()


async def test_headers_precede_first_item(served: Served, key: str) -> None:
    client = await served.open(f"held/?key={key}")  # returns when the headers arrive
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


@pytest.mark.parametrize("end", ["timeout=1", "lives=1"])
async def test_stream_ends_in_time(served: Served, key: str, end: str) -> None:
    client = await served.open(f"endless/?key={key}&{end}")
    assert (await rest(client)).endswith(b"data: first\n\n")
    await served.notes(key, ["started", "closed"])


async def test_exception_shows_no_details(served: Served) -> None:
    """The client sees no details, and the log has the stack."""
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


async def test_leaving_silent_stream_closes_iterator(served: Served, key: str) -> None:
    client = await served.open(f"endless/?key={key}")
    await client.read_until(1)
    await client.close()
    await served.notes(key, ["started", "closed"])


async def test_leaving_busy_stream_closes_iterator(served: Served, key: str) -> None:
    client = await served.open(f"chatty/?key={key}")
    await client.read_until(100)
    client.abort()
    await closed(served, key)


async def test_leaving_clients_leave_nothing_behind(served: Served) -> None:
    """Some leave before the first byte, and some after the first event."""
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
    async with asyncio.timeout(20):  # also for iterators that had not started at the first check
        while ["started"] in [await served.journal(key) for key in keys]:
            await asyncio.sleep(0.05)


@behind_middleware
@pytest.mark.parametrize("path", ["held/", "sync-held/"])
async def test_leaving_early_closes_iterator(served: Served, key: str, path: str) -> None:
    """The client leaves while a middleware still handles the response."""
    _, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    writer.write(f"GET /test/response/{path}?key={key}&slow=60 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await served.notes(key, ["held"])
    writer.close()
    await served.notes(key, ["held", "let go"])


async def test_iterator_queries_hold_no_connection(served: Served, key: str) -> None:
    """While the iterator is silent, it holds neither a thread nor a connection."""
    client = await served.open(f"numbers/?key={key}")  # the process now has its usual threads and connections
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


async def test_heartbeats_continue_beside_sync_code(served: Served) -> None:
    client = await served.open("busy-thread/?seconds=2&heartbeat=0.1")
    await client.read_until(1)
    assert [event.data for event in client.events] == ["done"]
    assert client.raw.partition(b"data:")[0].count(HEARTBEAT) > 5


async def test_contexts_can_span_several_items(served: Served) -> None:
    """Timeouts, tasks and context variables stay open from one item to the next."""
    client = await served.open("one-task/?heartbeat=0.05")
    assert [event.data for event in await client.read_until(5)] == ["1", "2", "2", "timed out", "0"]
    assert await rest(client) == b""


async def waiting_iterator(served: Served, key: str) -> tuple[StreamClient, int]:
    """Return a client that does not read, and the number of items when the iterator stopped to wait for it."""
    client = await served.open(f"chatty/?key={key}&bytes=65536")
    async with asyncio.timeout(60):
        rested, last = 0, list[int]()
        while rested < 10 or not last:  # an empty list: the iterator has not started
            now = await served.journal(key)
            rested, last = (rested + 1, last) if now == last else (0, now)
            await asyncio.sleep(0.1)
    return client, last[0]


async def closed(served: Served, key: str) -> None:
    async with asyncio.timeout(20):
        while (await served.journal(key))[1:] != ["closed"]:
            await asyncio.sleep(0.05)


@if_send_waits
async def test_iterator_waits_for_slow_client(served: Served, key: str) -> None:
    client, count = await waiting_iterator(served, key)
    assert 0 < count < 500  # the buffers of kernel and server hold some; 500 items would be 32 MB
    await client.read_until(count + 50)
    assert [int(event.data.split()[0]) for event in client.events] == list(range(len(client.events)))
    client.abort()
    await closed(served, key)


@if_send_waits
async def test_leaving_slow_client_closes_iterator(served: Served, key: str) -> None:
    client, _ = await waiting_iterator(served, key)
    client.abort()
    await closed(served, key)
