"""Several channels on one connection: events come in the log's order, with one cursor for all channels."""

from __future__ import annotations

import pytest

from tests.support.clients import StreamClient
from tests.support.sites import Server
from tests.system.servers.holdings import publish

pytestmark = pytest.mark.once


async def test_channels_share_a_connection_and_a_cursor(shared_server: Server, channel: str) -> None:
    a, b, other = f"{channel}.a", f"{channel}.b", f"{channel}.other"
    client = await StreamClient(shared_server.port, f"/events/?channel={a}&channel={b}").connect()
    await client.read_control(1)
    expected = []
    for name in (a, b, other, b, a, other, a):
        position = await publish(shared_server, name)
        if name != other:
            expected.append(str(position))
    await client.read_until(len(expected))
    client.abort()
    assert [event.id for event in client.events] == expected

    # The missed messages of both channels are replayed from the one cursor, and the stream continues live.
    for name in (other, b, a, a, other, b):
        last = await publish(shared_server, name, n=3)
        if name != other:
            expected += [str(position) for position in range(last - 2, last + 1)]
    await client.connect()
    await client.read_until(len(expected))
    for name in (a, b):
        expected.append(str(await publish(shared_server, name)))
    await client.read_until(len(expected))
    await client.close()
    assert [event.id for event in client.events] == expected


async def test_cursor_that_the_other_channel_moved_loses_nothing(shared_server: Server, channel: str) -> None:
    """The cursor is at an event of one channel. Older events of the other channel were received before it."""
    quiet, busy = f"{channel}.quiet", f"{channel}.busy"
    path = f"/events/?channel={quiet}&channel={busy}"
    client = await StreamClient(shared_server.port, path).connect()
    await client.read_control(1)
    first = await publish(shared_server, quiet)
    last = await publish(shared_server, busy, n=10)
    await client.read_until(11)
    client.abort()
    final = await publish(shared_server, quiet)
    await client.connect()
    await client.read_until(12)
    await client.close()
    assert [event.id for event in client.events] == [str(p) for p in (first, *range(first + 1, last + 1), final)]
