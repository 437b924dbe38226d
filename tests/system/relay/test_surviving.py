"""Answers survive readers that disconnect, a worker that is killed, and a database outage."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import signal
import time
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.clients import StreamClient, leave_all
from tests.support.services import wait_until
from tests.support.sites import Server, Site

pytestmark = [pytest.mark.once, pytest.mark.slow]

GENERATIONS = 50
READERS = 3
TOKENS_PER_SECOND = 200

WORKER = "from django.core.management import call_command\ncall_command('run_generations')"


@pytest.fixture(autouse=True)
async def leave() -> AsyncIterator[None]:
    yield
    leave_all()


def scripted(times: int, tokens_per_second: float = TOKENS_PER_SECOND) -> dict[str, Any]:
    """Return an upstream whose answer repeats a sentence of four words, which starts with the question."""
    options = {"answer": "{question}, wörds and wörds. ", "times": times, "seconds": 1 / tokens_per_second}
    return {"default": {"BACKEND": "streams.relay.upstreams.ScriptedUpstream", "OPTIONS": options}}


def ask(server: Server, question: str) -> dict[str, Any]:
    body = json.dumps({"messages": [{"role": "user", "content": question}]}).encode()
    request = urllib.request.Request(
        f"{server.url}/ai/generations/", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        created: dict[str, Any] = json.load(response)
    return created


async def follow(servers: list[Server], created: dict[str, Any], chance: random.Random) -> StreamClient:
    """Read an answer to its end as an EventSource does, over connections to random servers that break at random."""
    client = StreamClient(0, created["events_url"])
    while not any(event.event == "end" for event in client.events):
        client.port = chance.choice(servers).port
        await client.connect()
        assert client.status == 200
        await client.read_for(chance.choice([0.5, 2.0, 8.0]))
        if chance.random() < 0.5:
            client.abort()
        else:
            await client.close()
    return client


def text_of(client: StreamClient) -> str:
    """Return the text that the client received. Check that each piece came once and in order, before the end."""
    *pieces, end = client.events
    assert end.event == "end"
    data = [json.loads(piece.data) for piece in pieces]
    assert [piece["n"] for piece in data] == list(range(len(data)))
    assert client.control == [event for event in client.control if event.event == "stream-checkpoint"]
    return "".join(piece["text"] for piece in data)


def transactions(site: Site) -> int:
    """Return the number of transactions that have written. pg_stat_database counts reads too, and is seconds late."""
    [(number,)] = site.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
    return int(number)


async def test_fifty_answers_with_dropped_readers_and_a_killed_worker(postgres_site: Site) -> None:
    site = postgres_site.settings(
        UPSTREAMS=scripted(100),
        GENERATION_WORKER="command",
        GENERATION_CONCURRENCY=GENERATIONS // 2,
        RELAY_MAX_STREAMS_PER_USER=GENERATIONS,
    )
    servers = [site.serve(), site.serve()]
    asked = [ask(random.choice(servers), f"question{n}") for n in range(GENERATIONS)]
    doomed, living = site.script(WORKER), site.script(WORKER)
    chance = random.Random(4)
    readers = [asyncio.create_task(follow(servers, created, chance)) for created in asked for _ in range(READERS)]

    running = "SELECT count(DISTINCT channel) FROM streams_message WHERE channel LIKE 'generation.%'"
    await asyncio.to_thread(wait_until, lambda: site.execute(running) == [(GENERATIONS,)], "the first pieces", 60)
    doomed.kill()
    killed_at = time.time()

    began, before = time.monotonic(), await asyncio.to_thread(transactions, site)
    clients = await asyncio.gather(*readers)
    rate = (await asyncio.to_thread(transactions, site) - before) / (time.monotonic() - began)
    print(f"{rate:.0f} transactions a second, by two servers, one worker, and one killed worker")
    stored = {
        f"generation.{pk}": (state, text, ended_at)
        for pk, state, text, ended_at in site.execute(
            "SELECT id, state, text, extract(epoch FROM ended_at) FROM streams_relay_generation"
        )
    }
    states = [state for state, _, _ in stored.values()]
    assert (states.count("done"), states.count("interrupted")) == (GENERATIONS // 2, GENERATIONS // 2)
    for number, created in enumerate(asked):
        state, text, ended_at = stored[created["channel"]]
        whole = f"question{number}, wörds and wörds. " * 100
        assert text == whole if state == "done" else whole.startswith(text)
        if state != "done":
            assert float(ended_at) - killed_at < 60, "this takes about 15 seconds on an idle machine"
        for client in clients[number * READERS :][:READERS]:
            assert text_of(client) == text
    # Usage is recorded exactly once for each generation.
    assert site.execute("SELECT count(*), count(DISTINCT generation) FROM streams_relay_usage") == [(50, 50)]
    living.kill()


async def test_one_process_writes_fifty_answers_in_few_transactions(postgres_site: Site) -> None:
    """A transaction holds pieces of many answers, and they are at least GENERATION_FLUSH_MILLISECONDS apart.

    Both bounds hold on a busy machine: it writes fewer pieces in fewer transactions.
    """
    site = postgres_site.settings(UPSTREAMS=scripted(5000), RELAY_MAX_STREAMS_PER_USER=GENERATIONS)
    server = site.serve()
    asked = [ask(server, f"question{n}") for n in range(GENERATIONS)]
    readers = [await StreamClient(server.port, created["events_url"]).connect() for created in asked]
    reading = [asyncio.create_task(client.read_for(600)) for client in readers]
    answers = "SELECT count(DISTINCT channel) FROM streams_message WHERE channel LIKE 'generation.%'"
    await asyncio.to_thread(wait_until, lambda: site.execute(answers) == [(GENERATIONS,)], "the first pieces", 120)

    def pieces() -> int:
        [(count,)] = site.execute("SELECT count(*) FROM streams_message")
        return int(count)

    began = time.monotonic()
    before, first = await asyncio.to_thread(transactions, site), await asyncio.to_thread(pieces)
    wanted = first + 50 * GENERATIONS
    await asyncio.to_thread(wait_until, lambda: pieces() > wanted, "fifty more pieces of each", 240)
    written, counted = await asyncio.to_thread(pieces), await asyncio.to_thread(transactions, site)
    seconds = time.monotonic() - began
    for task in reading:
        task.cancel()
    await asyncio.wait(reading)
    print(f"{counted - before} transactions for {written - first} pieces, in {seconds:.1f} s")
    assert counted - before < (written - first) / 5
    assert counted - before < 30 * seconds


async def test_answer_goes_on_after_the_database_was_away(postgres_site: Site) -> None:
    """The outage lasts longer than the lease, and can interrupt a commit. No piece is stored twice or lost."""
    site = postgres_site.settings(UPSTREAMS=scripted(150, 25), GENERATION_LEASE_SECONDS=2)
    assert site.postgres is not None
    # The answers take 24 seconds, so that they still go on after an outage on a busy machine.
    server, other = site.serve(), site.serve()
    asked = [ask(server, f"question{n}") for n in range(5)]
    # With readers, both processes look for generations whose worker is dead.
    for created, each in itertools.product(asked, (server, other)):
        await StreamClient(each.port, created["events_url"]).connect()
    under_way = "SELECT count(*) FROM streams_message WHERE channel LIKE 'generation.%'"
    for how in (signal.SIGINT, signal.SIGQUIT):  # fast, and immediate, which interrupts commits
        seen = site.execute(under_way)[0][0]
        await asyncio.to_thread(wait_until, lambda seen=seen: site.execute(under_way)[0][0] > seen + 20, "pieces", 60)
        site.postgres.stop(how)
        await asyncio.sleep(3)
        site.postgres.start()
    ended = "SELECT count(*) FROM streams_relay_generation WHERE ended_at IS NOT NULL"
    await asyncio.to_thread(wait_until, lambda: site.execute(ended) == [(5,)], "the end of the answers", 90)
    assert site.execute("SELECT DISTINCT state FROM streams_relay_generation") == [("done",)]
    clients = [await follow([server], created, random.Random(1)) for created in asked]
    for number, client in enumerate(clients):
        assert text_of(client) == f"question{number}, wörds and wörds. " * 150
