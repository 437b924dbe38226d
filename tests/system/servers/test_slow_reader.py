"""A client that stops reading: its buffers are bounded, it loses no message, and after SEND_TIMEOUT_SECONDS it is cut.

On daphne, the buffers are bounded only with Streams' ASGI application; see
test_daphne_under_the_stock_handler_loses_nothing.
"""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.support.clients import StreamClient
from tests.support.sites import SERVERS, Server, Site, finish
from tests.system.servers.conftest import DIRECT, OURS, STOCK
from tests.system.servers.holdings import connections, holdings, holds, publish, until

pytestmark = pytest.mark.once

bounded = pytest.mark.parametrize(
    ("server", "app"),
    [
        ("uvicorn", STOCK),
        ("uvicorn", OURS),
        ("uvicorn", DIRECT),
        ("granian", STOCK),
        ("hypercorn", STOCK),
        ("daphne", OURS),
    ],
)

MEBIBYTE = 2**20
OTHERS = 100
LARGE, SMALL = "public.large", "public.small"
BOTH = f"/events/?channel={LARGE}&channel={SMALL}"

# Runs in its own process, so that publishing adds nothing to the server's memory. Each batch is about a megabyte and
# one small message.
PUBLISH = f"""
import sys
from streams import NewMessage, publish_many
for n in range(int(sys.argv[1])):
    publish_many([NewMessage("{LARGE}", "x" * 20_000)] * 50 + [NewMessage("{SMALL}", str(n))])
"""


async def publish_megabytes(site: Site, count: int) -> None:
    await asyncio.to_thread(finish, site.script(PUBLISH, str(count)))


def positions(site: Site, *channels: str) -> list[str]:
    names = ", ".join(f"'{name}'" for name in channels)
    rows = site.execute(f"SELECT position FROM streams_message WHERE channel IN ({names}) ORDER BY position")
    return [str(position) for (position,) in rows]


async def connect_others(server: Server) -> list[StreamClient]:
    others = [await StreamClient(server.port, f"/events/{SMALL}/").connect() for _ in range(OTHERS)]
    for client in others:
        await client.read_control(1)
    return others


async def assert_others_have_everything(site: Site, others: list[StreamClient]) -> None:
    expected = positions(site, SMALL)
    await asyncio.gather(*(client.read_until(len(expected)) for client in others))
    for client in others:
        assert [event.id for event in client.events] == expected


@bounded
async def test_reader_that_pauses_is_bounded_and_reads_on_without_loss(
    sqlite_site: Site, server: str, app: str
) -> None:
    site = sqlite_site.settings(SEND_TIMEOUT_SECONDS=120, POLL_SECONDS=0.1, HEARTBEAT_SECONDS=0.5)
    running = site.serve(server, app)
    slow = await StreamClient(running.port, BOTH).connect(receive_buffer=2**16)
    await slow.read_control(1)
    others = await connect_others(running)

    # The first messages, which the client reads, fill the window and warm up the allocator.
    await publish_megabytes(site, 12)
    await slow.read_until(12 * 51)
    before = await holds(running, subscribers=1 + OTHERS)

    publishing = asyncio.create_task(publish_megabytes(site, 40))
    most_bytes = most_messages = most_memory = 0
    while not publishing.done():
        now = await holdings(running)
        most_bytes = max(most_bytes, now["queued_bytes"])
        most_messages = max(most_messages, now["queued_messages"])
        most_memory = max(most_memory, now["rss"] - before["rss"])
        await asyncio.sleep(0.2)
    await publishing
    await assert_others_have_everything(site, others)  # while the slow client still does not read
    assert most_bytes <= MEBIBYTE
    assert most_messages <= 1000
    assert most_memory <= 24 * MEBIBYTE

    expected = positions(site, LARGE, SMALL)
    await slow.read_until(len(expected))
    assert [event.id for event in slow.events] == expected
    assert {event.event for event in slow.control} == {"stream-checkpoint"}
    # Heartbeats arrived between the events, never inside one: each follows a blank line or another heartbeat.
    await slow.read_for(3.0)
    assert slow.raw.endswith(b"\n:\n")
    assert re.search(rb"[^\n:]\n:\n", slow.raw) is None


READERS = 12

# Sixty megabytes, in messages near the maximum size.
HISTORY = f"""
from streams import NewMessage, publish_many
for _ in range(30):
    publish_many([NewMessage("{LARGE}", "x" * 200_000)] * 10)
"""


async def test_readers_of_a_long_history_hold_little_each(sqlite_site: Site) -> None:
    """Each reader starts at another position, so that they share no pages of the replay."""
    site = sqlite_site.settings(SEND_TIMEOUT_SECONDS=120)
    await asyncio.to_thread(finish, site.script(HISTORY))
    running = site.serve()
    await StreamClient(running.port, f"/events/{SMALL}/").connect()
    before = await holds(running, subscribers=1)
    readers = [
        StreamClient(running.port, f"/events/{LARGE}/", last_event_id=str(number)) for number in range(1, READERS + 1)
    ]
    for reader in readers:
        await reader.connect(receive_buffer=2**16)
    most_memory = 0
    for _ in range(30):
        await asyncio.sleep(0.1)
        most_memory = max(most_memory, (await holdings(running))["rss"] - before["rss"])
    print(f"{most_memory / MEBIBYTE:.0f} MiB")
    assert most_memory < READERS * 5 * MEBIBYTE
    await readers[0].read_until(299)
    assert [event.id for event in readers[0].events] == positions(site, LARGE)[1:]


@pytest.mark.parametrize(
    ("server", "app"),
    [
        ("uvicorn", STOCK),
        ("granian", STOCK),
        ("hypercorn", STOCK),
        ("daphne", OURS),
        ("uvicorn", DIRECT),
        ("granian", DIRECT),
        ("daphne", DIRECT),
    ],
)
async def test_reader_that_takes_nothing_for_too_long_is_cut(sqlite_site: Site, server: str, app: str) -> None:
    site = sqlite_site.settings(SEND_TIMEOUT_SECONDS=2, POLL_SECONDS=0.1)
    running = site.serve(server, app)
    others = await connect_others(running)
    slow = await StreamClient(running.port, BOTH).connect(receive_buffer=2**16)
    await slow.read_control(1)
    await publish_megabytes(site, 20)
    await holds(running, subscribers=OTHERS, streams=OTHERS)
    await assert_others_have_everything(site, others)
    log = running.log.read_text()
    assert "Cut a stream whose client took nothing for" in log
    assert "Traceback" not in log

    # The client reads the bytes in the kernel's buffers until the end of the stream. It reconnects and misses nothing.
    expected = positions(site, LARGE, SMALL)
    async with asyncio.timeout(60):
        while await slow.read():
            pass
    assert len(slow.events) < len(expected)
    await slow.connect()
    await slow.read_until(len(expected))
    assert [event.id for event in slow.events] == expected
    await slow.close()
    await until(running, lambda _: connections(running) <= OTHERS, "the end of its connections")


@pytest.mark.parametrize(
    ("server", "app"), [("uvicorn", STOCK), *((server, app) for server in SERVERS for app in (OURS, DIRECT))]
)
async def test_connection_of_a_client_that_is_cut_is_closed(sqlite_site: Site, server: str, app: str) -> None:
    """This also holds if the client never reads again. Otherwise the unsent bytes would be kept indefinitely."""
    site = sqlite_site.settings(SEND_TIMEOUT_SECONDS=2, POLL_SECONDS=0.1)
    running = site.serve(server, app)
    stays = await StreamClient(running.port, f"/events/{SMALL}/").connect()
    await stays.read_control(1)
    for _ in range(5):
        await StreamClient(running.port, BOTH).connect(receive_buffer=2**12)
    await holds(running, subscribers=6)
    await publish_megabytes(site, 10)
    await holds(running, subscribers=1, streams=1)
    # One is the client that stays. hypercorn leaves another half open after a connection that sent no request.
    await until(running, lambda _: connections(running) <= 2, "the closing of their connections")
    assert "ERROR" not in running.log.read_text()


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
async def test_reader_that_is_slow_but_reads_is_not_cut(sqlite_site: Site, server: str) -> None:
    """The kernel buffers megabytes for this client, so the server's `send` waits for many seconds."""
    site = sqlite_site.settings(SEND_TIMEOUT_SECONDS=4, POLL_SECONDS=0.1)
    running = site.serve(server, OURS)
    slow = await StreamClient(running.port, BOTH).connect(receive_buffer=2**16)
    await slow.read_control(1)
    publishing = asyncio.create_task(publish_megabytes(site, 15))
    reads = 0
    while reads < 17 or not publishing.done():
        assert await slow.read()  # at most 64 KiB
        reads += 1
        await asyncio.sleep(0.6)
    await publishing
    expected = positions(site, LARGE, SMALL)
    await slow.read_until(len(expected))
    assert [event.id for event in slow.events] == expected


async def test_many_small_events_are_bounded_by_their_number(sqlite_site: Site) -> None:
    running = sqlite_site.settings(SEND_TIMEOUT_SECONDS=120).serve("uvicorn")
    slow = await StreamClient(running.port, f"/events/{SMALL}/").connect(receive_buffer=2**16)
    await slow.read_control(1)
    most_messages = 0
    for _ in range(30):
        await publish(running, SMALL, n=700, bytes=400)
        most_messages = max(most_messages, (await holdings(running))["queued_messages"])
    assert most_messages <= 1000
    expected = positions(sqlite_site, SMALL)
    await slow.read_until(len(expected))
    assert [event.id for event in slow.events] == expected


async def test_daphne_under_the_stock_handler_loses_nothing(sqlite_site: Site) -> None:
    """Its `send` never waits, so Twisted's buffer for the slow client is not bounded, and the client is not cut."""
    site = sqlite_site.settings(SEND_TIMEOUT_SECONDS=2, POLL_SECONDS=0.1)
    running = site.serve("daphne", STOCK)
    slow = await StreamClient(running.port, BOTH).connect(receive_buffer=2**16)
    await slow.read_control(1)
    others = await connect_others(running)
    await publish_megabytes(site, 20)
    await assert_others_have_everything(site, others)
    expected = positions(site, LARGE, SMALL)
    await slow.read_until(len(expected))
    assert [event.id for event in slow.events] == expected
