"""A server that is stopped during answers: each client receives an error that its answer is incomplete."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.relay.conftest import UpstreamProcess, make_relay
from tests.relay.steps import HEAD, piece, wait
from tests.support.clients import StreamClient
from tests.support.services import wait_until
from tests.support.sites import Site
from tests.system.relay.test_surviving import ask, scripted

pytestmark = pytest.mark.once


async def test_relayed_answer_ends_with_an_error(
    migrated_sqlite: Path, tmp_path: Path, upstream: UpstreamProcess
) -> None:
    relay = make_relay(migrated_sqlite, tmp_path, upstream)
    asked = await relay.ask([HEAD, piece("half of it"), wait(30)])
    await asked.has(b"half of it")
    stopping = asyncio.create_task(asyncio.to_thread(relay.server.stop, signal.SIGTERM, patient=True))
    body = await asked.rest()
    await stopping
    assert b'"code":"restarting"' in body
    assert body.endswith(b"\n\ndata: [DONE]\n\n"), "without the error, the stream would look like a complete answer"
    relay.site.close()


@pytest.mark.parametrize(("server", "reads"), [("uvicorn", True), ("uvicorn", False), ("granian", False)])
async def test_worker_within_says_that_its_answers_are_interrupted(sqlite_site: Site, server: str, reads: bool) -> None:
    running = sqlite_site.settings(UPSTREAMS=scripted(100, 10)).serve(server)
    created = await asyncio.to_thread(ask, running, "question")
    if reads:
        reader = await StreamClient(running.port, created["events_url"]).connect()
        await reader.read_until(1)
    state = "SELECT state FROM streams_relay_generation"
    await asyncio.to_thread(wait_until, lambda: sqlite_site.execute(state) == [("running",)], "the answer's beginning")
    await asyncio.to_thread(running.stop, signal.SIGTERM, patient=True)
    assert sqlite_site.execute(state) == [("interrupted",)], (
        "the worker itself must set the state, before its lease expires"
    )
