"""Background tasks: they are kept alive, their failures are logged, and shutdown waits for those that must finish."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref

import pytest

from streams.http import shutdown
from streams.runtime import tasks
from streams.runtime.thread_pool import LogThreads


async def test_task_is_kept_alive_until_it_ends() -> None:
    """The event loop has only a weak reference to a task. This task waits for a future without other references."""
    futures: list[weakref.ref[asyncio.Future[None]]] = []

    async def wait() -> None:
        future = asyncio.get_running_loop().create_future()
        futures.append(weakref.ref(future))
        await future

    tasks.spawn(wait())
    await asyncio.sleep(0)
    gc.collect()
    future = futures[0]()
    assert future is not None, "the task and its future still exist"
    future.set_result(None)
    del future
    await asyncio.sleep(0.01)
    gc.collect()
    assert futures[0]() is None


def test_threads_are_started_outside_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentry and OpenTelemetry look at the context in which a thread is started."""
    request = contextvars.ContextVar("request", default="")
    request.set("of a request")
    seen, start = [], threading.Thread.start

    def start_and_hand_on(thread: threading.Thread) -> None:
        seen.append((thread.name, request.get()))
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_and_hand_on)
    assert LogThreads(1).submit(int).result(10) == 0
    tasks.start_thread(list, "another").join()
    assert seen == [("streams-log", ""), ("another", "")]


async def test_task_has_a_context_of_its_own() -> None:
    request = contextvars.ContextVar("request", default="")
    request.set("of a request")

    async def read() -> str:
        return request.get()

    assert await tasks.spawn(read(), awaited=True) == ""


@pytest.mark.parametrize("awaited", [False, True])
async def test_failure_is_logged_unless_awaited(awaited: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ArithmeticError("in a task")

    task = tasks.spawn(fail(), awaited=awaited)
    with pytest.raises(ArithmeticError):
        await task
    await asyncio.sleep(0)
    logged = [record for record in caplog.records if record.name == "streams"]
    assert [record.exc_info is not None for record in logged] == ([] if awaited else [True])


async def test_server_waits_for_tasks_that_must_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    release = asyncio.Event()
    ended = asyncio.Event()
    monkeypatch.setattr(shutdown, "_hooks", [])
    monkeypatch.setattr(shutdown, "GRACE_SECONDS", 30.0)
    tasks.spawn(asyncio.sleep(3600))  # shutdown does not wait for this task
    job = tasks.spawn(release.wait(), finish=True)
    assert tasks.must_finish()
    shutdown._Process().begin(ended.set)
    await asyncio.sleep(0.2)
    assert not ended.is_set()
    release.set()
    await job
    assert not tasks.must_finish()
    async with asyncio.timeout(30):
        await ended.wait()
