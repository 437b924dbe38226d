"""Celery's workers, which are forked, publish to the streams of a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.forks import MAIN, ForkedProcess
from tests.support.sites import BIN, Site, finish
from tests.system.sites.conftest import Start
from tests.system.sites.running import Running
from tests.system.support import assert_no_holes

pytestmark = pytest.mark.once

TASKS = 30


@pytest.fixture(scope="module", params=["postgresql", "sqlite"])
def running(request: pytest.FixtureRequest, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Running:
    return start("celery_workers", on=request.param, TEST_BROKER=str(tmp_path_factory.mktemp("broker")))


@pytest.fixture(scope="module")
def worker(running: Running) -> Iterator[ForkedProcess]:
    """A Celery worker with two forked processes."""
    options = ["--pool=prefork", "--concurrency=2", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    argv = [str(BIN / "celery"), "--app", "tests.system.sites.celery_app", "worker", "-l", "WARNING", *options]
    process = ForkedProcess(MAIN, argv, running.site.env, running.site.folder / "celery.log")
    yield process
    process.terminate()
    process.wait(60)
    log = (running.site.folder / "celery.log").read_text()
    assert "Traceback" not in log, log


def send(site: Site, code: str) -> None:
    finish(site.script(f"from tests.system.sites import celery_app, tasks\n{code}"))


async def test_messages_of_forked_workers_are_delivered_once(running: Running, worker: ForkedProcess) -> None:
    """Their parent has published before the fork. The tasks run in both workers at the same time."""
    client = await running.stream("public.tasks")
    code = f"""
for number in range({TASKS}):
    task = (tasks.in_transaction, tasks.on_a_loop)[number % 2]
    task.delay("public.tasks", number)
    tasks.rolled_back.delay("public.tasks")
"""
    await asyncio.to_thread(send, running.site, code)
    events = await client.read_until(TASKS)
    assert sorted(int(event.data) for event in events) == list(range(TASKS))
    ids = [int(event.id) for event in events]
    assert ids == sorted(set(ids))
    assert "never" not in await asyncio.to_thread(assert_no_holes, running.site)


async def test_both_workers_and_their_parent_publish(running: Running, worker: ForkedProcess) -> None:
    client = await running.stream("public.pids")
    pids: set[str] = set()
    async with asyncio.timeout(60):
        while len(pids) < 2:
            await asyncio.to_thread(send, running.site, "for _ in range(4): tasks.pid.delay('public.pids')")
            await client.read_until(len(client.events) + 4)
            pids = {event.data for event in client.events}
    assert str(worker.pid) not in pids
    found = running.site.execute("SELECT data FROM streams_message WHERE channel = 'public.worker' ORDER BY position")
    assert [data for (data,) in found] == ["by the parent", "by a thread of the parent"]
