"""read_rest() distinguishes a slow client that was cut from a client that has received everything."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.support.clients import StreamClient, leave_all
from tests.system.chaos.disruptors import read_rest


@pytest.mark.parametrize(
    ("ends", "newest", "expected"),
    [
        (True, [9], "cut"),
        (False, [3], "complete"),
        (False, [9], "open"),
        (False, [0], "complete"),  # retention has deleted all of the flood
        (False, [9, 9, 2], "complete"),  # an older copy of the log was restored
    ],
)
async def test_stream_is_cut_complete_or_open(ends: bool, newest: list[int], expected: str) -> None:
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(b"id: %d\ndata: x\n\n" % n for n in (1, 2, 3)))
        if not ends:
            await over.wait()
        writer.close()

    async def next_newest() -> int:
        return newest.pop(0) if len(newest) > 1 else newest[0]

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = await StreamClient(server.sockets[0].getsockname()[1], "/").connect()
    try:
        assert await read_rest(client, next_newest, 30 if ends else 1) == expected
        assert len(client.events) == 3
    finally:
        over.set()
        leave_all()
        server.close()


async def test_client_without_a_stream_leaves_no_connection() -> None:
    """A server that is too slow to answer must not keep a stream of a client that has given up."""
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        closed.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = StreamClient(server.sockets[0].getsockname()[1], "/")
    client.leave()  # not connected yet
    await client.connect()
    client.leave()
    client.leave()
    async with asyncio.timeout(30):
        await closed.wait()
    server.close()
