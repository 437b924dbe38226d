"""Hundreds of clients that reconnect together, each a hundred messages behind, cost the database a few queries."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.clients import StreamClient
from tests.support.sites import Server, Site, finish
from tests.system.servers.holdings import ask, publish

pytestmark = pytest.mark.once

CLIENTS = 400  # the number of queries does not depend on it
BEHIND = 100
MAX_QUERIES = 25

# Runs in its own process. Messages of another channel lie between those of the storm's channel.
PUBLISH = f"""
from streams import NewMessage, publish_many
for n in range({BEHIND}):
    publish_many([NewMessage("public.storm", f"missed {{n}}"), NewMessage("public.other", "")])
"""


async def start(site: Site) -> tuple[Server, list[StreamClient]]:
    """Return a server whose queries are counted, and clients that have read the whole log.

    The log is longer than the hub's window.
    """
    # No polls, so that only the replays' queries are counted. Otherwise the hub would read the head once a second.
    running = site.settings(POLL_SECONDS=600).serve("uvicorn")
    await count_queries(running)
    for _ in range(3):
        last = await publish(running, "public.other", n=1000)
    assert len(await count_queries(running)) >= 3  # the counter works
    clients = [StreamClient(running.port, "/events/public.storm/", last_event_id=str(last)) for _ in range(CLIENTS)]
    return running, clients


async def count_queries(server: Server) -> list[str]:
    """Return the queries of all the server's threads since the last call. The first call begins to count.

    Queries of periodic tasks are left out, because their number depends on how long the test takes.
    """
    queries = (await ask(server, "/test/queries/"))["queries"]
    periodic = ("streams_relay_", "streams_node", "streams_broadcast", "BEGIN")
    return [query for query in queries if not any(text in query for text in periodic)]


async def assert_storm_is_cheap(site: Site, running: Server, clients: list[StreamClient]) -> None:
    await asyncio.gather(*(client.connect() for client in clients))
    await asyncio.gather(*(client.read_until(BEHIND) for client in clients))
    queries = await count_queries(running)
    assert len(queries) <= MAX_QUERIES, "\n".join(queries)
    rows = site.execute("SELECT position, data FROM streams_message WHERE channel = 'public.storm' ORDER BY position")
    expected = [(str(position), data) for position, data in rows]
    assert len(expected) == BEHIND
    for client in clients:
        assert [(event.id, event.data) for event in client.events] == expected

    # The clients are live, and receive the next message once.
    last = await publish(running, "public.storm")
    await asyncio.gather(*(client.read_until(BEHIND + 1) for client in clients))
    assert {client.last_event_id for client in clients} == {str(last)}
    assert {len(client.events) for client in clients} == {BEHIND + 1}
    assert {event.event for client in clients for event in client.control} == {"stream-checkpoint"}


async def test_storm_while_the_server_runs(site: Site) -> None:
    running, clients = await start(site)
    stays = await StreamClient(running.port, "/events/public.other/").connect()
    await stays.read_control(1)
    await asyncio.to_thread(finish, site.script(PUBLISH))
    await publish(running, "public.other")  # makes the hub read the messages that the other process published
    await stays.read_until(BEHIND + 1)
    await count_queries(running)
    await assert_storm_is_cheap(site, running, clients)


async def test_storm_after_a_restart(site: Site) -> None:
    running, clients = await start(site)
    running.stop()
    await asyncio.to_thread(finish, site.script(PUBLISH))
    running.start()
    await count_queries(running)
    await publish(running, "public.other")
    assert await count_queries(running)  # the counter works in the new process too
    await assert_storm_is_cheap(site, running, clients)
