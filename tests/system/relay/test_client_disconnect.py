"""When a client disconnects, the relay closes its upstream connection at once and releases the resources.

Model time costs money, so the upstream must stop in every state of the request.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.relay.conftest import Asking, Relay, UpstreamProcess, make_relay
from tests.relay.steps import END, HEAD, Step, piece, wait
from tests.system.servers.holdings import holdings, holds_no_more_than

pytestmark = pytest.mark.once

LET_GO_SECONDS = 0.5
SILENT: list[Step] = [HEAD, piece("Hi"), wait(30)]
BUSY: list[Step] = [HEAD, ["repeat", 10_000, [piece("Hi"), wait(0.01)]]]
BEFORE_HEAD: list[Step] = [wait(30)]


@pytest.fixture(scope="module", params=["daphne", "granian", "hypercorn", "uvicorn-sync-middleware"])
def other(
    request: pytest.FixtureRequest,
    migrated_sqlite: Path,
    tmp_path_factory: pytest.TempPathFactory,
    upstream: UpstreamProcess,
) -> Iterator[Relay]:
    """The site on the other servers, and behind sync middleware, which cannot be cancelled."""
    server, _, sync = request.param.partition("-")
    middleware = '["tests.support.middleware.slow_sync"]' if sync else '["tests.support.middleware.slow"]'
    made = make_relay(migrated_sqlite, tmp_path_factory.mktemp(server), upstream, server, TEST_MIDDLEWARE=middleware)
    yield made
    made.site.close()
    assert "Traceback" not in made.server.log.read_text()


async def leave(asked: Asking, *, by_reset: bool) -> float:
    """Disconnect, and return the time by the monotonic clock, which the upstream uses as well."""
    left_at = time.monotonic()
    if by_reset:
        asked.abort()
    else:
        await asked.close()
    return left_at


async def let_go(
    relay: Relay, steps: list[Step], *, by_reset: bool, query: str = "", seconds: float = LET_GO_SECONDS
) -> None:
    """Send a request, disconnect before its end, and check that the upstream's connection closes in time."""
    asked = await relay.asking(steps, query=query).ask()
    if steps is BEFORE_HEAD or query:
        await relay.seen(asked)
        await asyncio.sleep(0.3)
    else:
        await (await asked.head()).has(b"Hi")
    left_at = await leave(asked, by_reset=by_reset)
    assert await relay.let_go_after(asked, left_at) < seconds


@pytest.mark.parametrize("by_reset", [False, True])
@pytest.mark.parametrize("steps", [SILENT, BUSY, BEFORE_HEAD], ids=["silent", "busy", "before-head"])
async def test_upstream_is_let_go_of(relay: Relay, steps: list[Step], by_reset: bool) -> None:
    await let_go(relay, steps, by_reset=by_reset)


@pytest.mark.parametrize("steps", [SILENT, BUSY, BEFORE_HEAD], ids=["silent", "busy", "before-head"])
async def test_upstream_is_let_go_of_on_every_server(other: Relay, steps: list[Step]) -> None:
    await let_go(other, steps, by_reset=False)


@pytest.mark.parametrize("steps", [SILENT, BUSY], ids=["silent", "busy"])
async def test_upstream_is_let_go_of_while_middleware_still_runs(relay: Relay, steps: list[Step]) -> None:
    await let_go(relay, steps, by_reset=False, query="?slow=3")


@pytest.mark.parametrize("steps", [SILENT, BUSY], ids=["silent", "busy"])
async def test_upstream_is_let_go_of_while_middleware_still_runs_on_every_server(
    other: Relay, steps: list[Step], request: pytest.FixtureRequest
) -> None:
    """Sync middleware cannot be cancelled. The upstream's connection closes when it returns, before any time limit."""
    if "sync" in request.node.callspec.params["other"]:
        await let_go(other, steps, by_reset=False, query="?slow=1", seconds=1 + LET_GO_SECONDS)
    else:
        await let_go(other, steps, by_reset=False, query="?slow=3")


async def test_whole_answer_is_let_go_of_as_well(relay: Relay) -> None:
    asked = await relay.asking(BEFORE_HEAD, stream=False).ask()
    await relay.seen(asked)
    assert await relay.let_go_after(asked, await leave(asked, by_reset=False)) < LET_GO_SECONDS


async def test_upstream_of_a_failed_answer_is_let_go_of(relay: Relay) -> None:
    asked = await relay.ask([HEAD, piece("Hi"), ["chunk", 'data: {"error": "x"}\n\n'], wait(30)])
    await asked.rest()
    assert await relay.let_go_after(asked, time.monotonic()) < LET_GO_SECONDS


async def test_finished_answers_share_a_connection(relay: Relay) -> None:
    before = await relay.upstream.connections()
    for _ in range(20):
        status, _, _ = await relay.answer([HEAD, piece("Hi"), *END])
        assert status == 200
    assert await relay.upstream.connections() <= before + 2


async def test_a_thousand_cancels_leave_nothing_behind(relay: Relay) -> None:
    async def come_and_go(number: int) -> None:
        steps = [SILENT, BUSY, BEFORE_HEAD][number % 3]
        asked = await relay.asking(
            steps, query=random.choice(["", "", "?slow=0.05"]), user=random.choice(["ann", "bob"])
        ).ask()
        await asyncio.sleep(random.choice([0, 0.002, random.uniform(0, 0.1)]))
        await leave(asked, by_reset=number % 2 == 0)

    status, _, _ = await relay.answer([HEAD, piece("Hi"), *END])
    assert status == 200
    await asyncio.sleep(0.5)
    before, open_before = await holdings(relay.server), await relay.upstream.connections()
    for round_ in range(25):
        await asyncio.gather(*(come_and_go(round_ * 40 + number) for number in range(40)))
    await holds_no_more_than(relay.server, before)
    assert await relay.upstream.connections() <= open_before
    # All slots are free: a user can open the maximum number of streams at once.
    asked = await asyncio.gather(*(relay.ask(SILENT) for _ in range(50)))
    assert {each.status for each in asked} == {200}
