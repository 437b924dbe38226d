"""LogThreads: jobs that exceed their time limit, and their abandoned threads."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from streams.runtime import thread_pool
from streams.runtime.executor import DatabaseTimeout, LogThreads
from tests.runtime.support import Work, all_gone
from tests.support.services import wait_until


def overdue(pool: LogThreads, job: Future[None]) -> Future[None]:
    """Wait until the job has failed because it is overdue."""

    def has_failed() -> bool:
        pool.abandon_overdue()
        return job.done()

    wait_until(has_failed, "the job's failure")
    return job


def test_hanging_job_fails() -> None:
    pool = LogThreads(1, seconds=lambda: 0.2)
    work = Work()
    hanging = pool.submit(work)
    waiting = pool.submit(int)
    with pytest.raises(DatabaseTimeout, match=r"did not answer within 0\.2 s"):
        overdue(pool, hanging).result(0)
    assert waiting.result(30) == 0, "another thread runs the waiting job"
    work.release.set()
    wait_until(all_gone(work.threads), "the end of the abandoned thread")
    assert work.threads.isdisjoint({pool.submit(threading.current_thread).result(30)})


async def test_hanging_job_fails_without_another_job(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = LogThreads(1, seconds=lambda: 0.2)
    work = Work()
    async with asyncio.timeout(30):
        with pytest.raises(DatabaseTimeout):
            await pool.begin(work)
        assert await pool.begin(int) == 0
        with pytest.raises(DatabaseTimeout):
            await pool.begin(work, 0.1)
    work.release.set()


def test_late_result_is_dropped() -> None:
    pool = LogThreads(1, seconds=lambda: 0.2)
    work = Work()
    hanging = pool.submit(work)
    error = overdue(pool, hanging).exception(0)
    work.release.set()
    wait_until(all_gone(work.threads), "the end of the thread")
    assert hanging.exception(0) is error


def test_hanging_threads_are_limited() -> None:
    pool = LogThreads(2, seconds=lambda: 0.05)
    work = Work()
    futures = [pool.submit(work) for _ in range(40)]
    for future in futures:
        overdue(pool, future)
    assert len(work.threads) <= 2 + thread_pool.MAX_ABANDONED
    with pytest.raises(DatabaseTimeout, match="connect_timeout"):
        pool.submit(int).result(30)
    work.release.set()
    wait_until(all_gone(work.threads), "the end of the threads")
    assert pool.submit(int).result(30) == 0, "the pool works again"
