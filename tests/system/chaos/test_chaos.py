"""A short run of the chaos suite finds no fault, and a run with one of the switches in `broken` finds one."""

from __future__ import annotations

import secrets

import pytest

from tests.support.services import missing, nginx
from tests.support.services.postgres import PostgresServer
from tests.support.services.redis import RedisServer
from tests.system.chaos.broken import BREAKS
from tests.system.chaos.disruptors import Disruptor
from tests.system.chaos.run import run
from tests.system.chaos.world import CHANNEL_LAYER, World

pytestmark = [pytest.mark.once, pytest.mark.slow]

FAULTS = {"lock": {"hole", "lost"}, "ids": {"hole", "lost"}, "join": {"lost"}, "gap": {"lost"}}


@pytest.fixture(autouse=True)
def _services(postgres: PostgresServer) -> None:
    if nginx.program() is None:
        missing("nginx", "nginx")


async def test_nothing_is_lost_repeated_reordered_or_skipped_in_silence(redis: RedisServer) -> None:
    seed = secrets.randbelow(1_000_000)
    with World(seed, notifier=CHANNEL_LAYER, redis=redis) as world:
        verdict = await run(world, seconds=20, clients=60, messages=300)
    assert not verdict.faults, str(verdict)
    # Without these, the run would prove little.
    assert set(verdict.done) == {kind.__name__ for kind in Disruptor(world).kinds}
    assert verdict.pruned
    assert verdict.resets
    assert verdict.cuts
    assert verdict.lost
    assert verdict.disowned
    assert verdict.answered
    assert verdict.connections > 120


@pytest.mark.parametrize("which", BREAKS)
async def test_what_is_broken_is_found(which: str, postgres: PostgresServer, migrated_postgres: str) -> None:
    for _ in range(4):  # on a busy machine, publishers seldom run at the same time
        with World(1, broken=which, postgres=postgres, template=migrated_postgres) as world:
            verdict = await run(world, seconds=1, clients=60, disrupted=False, messages=250, settle_seconds=3)
        if verdict.faults:
            break
    assert {fault.kind for fault in verdict.faults} & FAULTS[which], str(verdict)
    assert f"--seed {verdict.seed}" in str(verdict)
    assert "positioned" in str(verdict)  # the story of a message
    assert f"--break {which}" in str(verdict)
