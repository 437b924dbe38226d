"""LogThreads: few, on demand, and gone with their connections when there is nothing to do."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import OperationalError, connection, connections

from streams import log, publish
from streams.runtime import executor, test_run, thread_pool
from streams.runtime.executor import DatabaseTimeout, LogThreads
from tests.support.services import wait_until
from tests.support.sites import Site, finish


class Work:
    """A job that waits until it is released, and notes in which threads it ran."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self.running = self.most = 0

    def __call__(self) -> None:
        with self._lock:
            self.threads.add(threading.current_thread())
            self.running += 1
            self.most = max(self.most, self.running)
        self.release.wait(60)
        with self._lock:
            self.running -= 1


def all_gone(running: set[threading.Thread]) -> Callable[[], bool]:
    return lambda: not any(thread.is_alive() for thread in running)


@pytest.fixture
def pool() -> LogThreads:
    return LogThreads()


def set_threads(settings: Any, number: int) -> None:
    settings.STREAMS = {**settings.STREAMS, "DATABASE_THREADS": number}


# --- How many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 4])
def test_no_more_jobs_run_at_once_than_log_threads_says(pool: LogThreads, settings: Any, number: int) -> None:
    set_threads(settings, number)
    work = Work()
    futures = [pool.submit(work) for _ in range(20)]
    wait_until(lambda: work.running == number, f"{number} jobs at once")
    time.sleep(0.1)
    assert work.running == number
    work.release.set()
    wait(futures, timeout=30)
    assert (work.most, len(work.threads)) == (number, number)
    wait_until(all_gone(work.threads), "the end of the threads")


@pytest.mark.parametrize("number", [1, 2])
def test_pool_outlives_a_machine_without_threads_to_give(settings: Any, number: int) -> None:
    set_threads(settings, number)
    pool = LogThreads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.submit(int)
    assert pool.submit(int).result(timeout=30) == 0
    work = Work()
    futures = [pool.submit(work) for _ in range(4)]
    wait_until(lambda: work.running == number, f"{number} jobs at once")
    work.release.set()
    wait(futures, timeout=30)
    assert work.most == number


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_jobs_one_after_the_other_need_one_thread(pool: LogThreads) -> None:
    work = Work()
    work.release.set()
    for _ in range(20):
        pool.submit(work).result(30)
        time.sleep(0.005)  # a thread counts as free a moment after its result is there
    assert len(work.threads) <= 2


def test_four_threads_by_default(pool: LogThreads) -> None:
    work = Work()
    futures = [pool.submit(work) for _ in range(10)]
    wait_until(lambda: work.running == 4, "four jobs at once")
    work.release.set()
    wait(futures, timeout=30)
    assert work.most == 4


def test_number_of_threads_can_be_changed_while_they_run(pool: LogThreads, settings: Any) -> None:
    set_threads(settings, 1)
    work = Work()
    futures = [pool.submit(work)]
    set_threads(settings, 3)
    futures += [pool.submit(work) for _ in range(10)]
    wait_until(lambda: work.running == 3, "three jobs at once")
    work.release.set()
    wait(futures, timeout=30)
    assert work.most == 3


def test_threads_do_not_keep_the_process_alive(pool: LogThreads) -> None:
    assert pool.submit(lambda: threading.current_thread().daemon).result(30)


# --- What becomes of a job --------------------------------------------------------------------------------------------


def test_job_gives_its_result_and_takes_arguments(pool: LogThreads) -> None:
    assert pool.submit(divmod, 7, 2).result(30) == (3, 1)
    assert pool.submit(int, "ff", base=16).result(30) == 255


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), StopIteration()])
def test_exception_goes_to_the_caller_and_the_thread_lives_on(pool: LogThreads, error: BaseException) -> None:
    ran_in: list[threading.Thread] = []

    def fail() -> None:
        ran_in.append(threading.current_thread())
        raise error

    future = pool.submit(fail)
    assert future.exception(30) is error
    assert pool.submit(threading.current_thread).result(30) in ran_in or not ran_in[0].is_alive()
    assert pool.submit(divmod, 7, 2).result(30) == (3, 1)


async def test_exception_of_run_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        await executor.run(divmod, 1, 0)


def test_job_that_was_cancelled_while_it_waited_does_not_run(pool: LogThreads, settings: Any) -> None:
    set_threads(settings, 1)
    work = Work()
    first = pool.submit(work)
    ran: list[int] = []
    futures = [pool.submit(ran.append, number) for number in range(4)]
    assert futures[1].cancel()
    work.release.set()
    wait([first, *futures], timeout=30)
    assert ran == [0, 2, 3]


def test_jobs_begin_in_the_order_of_their_coming(pool: LogThreads, settings: Any) -> None:
    set_threads(settings, 1)
    ran: list[int] = []
    wait([pool.submit(ran.append, number) for number in range(200)], timeout=30)
    assert ran == list(range(200))


def test_thread_whose_job_another_has_taken_still_ends(pool: LogThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython's SimpleQueue, before 3.13, forgets its timeout where that passes in the moment of such a loss."""
    monkeypatch.setattr(test_run, "LINGER_SECONDS", 0.0005)
    for _ in range(6):
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            wait([pool.submit(int) for _ in range(4)])
        wait_until(lambda: not pool._threads, "the threads' end", 10)


def test_no_job_is_lost_while_threads_come_and_go(pool: LogThreads) -> None:
    # The pauses are about as long as an idle thread lingers in a test run, so that jobs come just as threads end.
    done: list[int] = []
    futures: list[Future[None]] = []

    def submit(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(25):
            futures.append(pool.submit(done.append, number))
            time.sleep(chance.choice([0, 0.001, 0.048, 0.05, 0.052]))

    submitting = [threading.Thread(target=submit, args=[seed]) for seed in range(8)]
    for thread in submitting:
        thread.start()
    for thread in submitting:
        thread.join()
    finished, lost = wait(futures, timeout=30)
    assert not lost
    assert len(done) == len(finished) == 200


# --- Their connections ------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_queries_are_not_collected_in_debug(pool: LogThreads, settings: Any) -> None:
    settings.DEBUG = True

    def look() -> int:
        log.head()
        return len(connections["default"].queries_log)

    pool.submit(look).result(30)  # opens the connection, which takes queries as well
    assert [pool.submit(look).result(30) for _ in range(5)] == [1] * 5


@pytest.mark.django_db(transaction=True)
def test_job_after_a_lost_connection_has_a_new_one(pool: LogThreads, settings: Any) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("a file has no connection to lose")
    set_threads(settings, 1)

    def lose() -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    assert pool.submit(log.current_head).result(30) == 0
    with pytest.raises(OperationalError):
        pool.submit(lose).result(30)
    assert pool.submit(log.current_head).result(30) == 0


@pytest.mark.django_db(transaction=True)
def test_job_after_the_server_has_ended_an_idle_connection_does_not_fail(
    pool: LogThreads, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a restart of the database. The stream that asks would end, and its client would have to come back."""
    if connection.vendor != "postgresql":
        pytest.skip("a file has no connection to lose")
    set_threads(settings, 1)
    monkeypatch.setattr(test_run, "LINGER_SECONDS", 1.0)  # or the thread would have closed it by itself

    def backend() -> tuple[threading.Thread, int]:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return threading.current_thread(), int(cursor.fetchone()[0])

    thread, first = pool.submit(backend).result(30)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [first])
    again, second = pool.submit(backend).result(30)
    assert (again, first != second) == (thread, True)
    wait_until(all_gone({thread}), "the end of the thread")


def read_together() -> None:
    """Forty reads at once from an event loop; then idle. Prints how many threads did it, and when they are gone."""

    async def main() -> None:
        await asyncio.gather(*(executor.run(log.head) for _ in range(40)))
        named = [thread for thread in threading.enumerate() if thread.name == "streams-log"]
        print(len(named), flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # the test looks at our connections
        await asyncio.to_thread(wait_until, all_gone(set(named)), "the end of the threads")
        print("gone", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        assert (await executor.run(log.head)).head == 0  # and they come again

    asyncio.run(main())


@pytest.mark.once
def test_idle_threads_end_and_give_their_connections_back(site: Site) -> None:
    def connected() -> int:
        if site.postgres is not None:
            return site.postgres.connections(site.database_url.rpartition("/")[2])
        files = Path(f"/proc/{process.pid}/fd").iterdir()
        return sum(os.readlink(file).endswith("db.sqlite3") for file in files)

    process = site.call(read_together)
    assert 1 <= int(process.stdout.readline()) <= 4
    assert 1 <= connected() <= 4
    process.tell()
    process.hear("gone")
    # The process itself has opened none; what is left would be theirs.
    assert connected() == 0
    process.tell()
    finish(process)


# --- Whose thread -----------------------------------------------------------------------------------------------------


async def test_run_leaves_the_event_loop_free() -> None:
    here = threading.current_thread()
    assert await executor.run(threading.current_thread) is not here
    release = threading.Event()
    waiting = asyncio.create_task(executor.run(release.wait, 30))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    release.set()
    assert await waiting


def test_run_for_a_sync_caller_uses_that_callers_thread() -> None:
    async def where() -> threading.Thread:
        return await executor.run(threading.current_thread)

    assert async_to_sync(where)() is threading.current_thread()


@pytest.mark.django_db(transaction=True)
def test_sync_publish_uses_the_callers_own_connection() -> None:
    running = set(threading.enumerate())
    publish("news", "x")
    assert set(threading.enumerate()) <= running


# --- A job that hangs -------------------------------------------------------------------------------------------------


def test_job_that_hangs_fails_and_others_go_on() -> None:
    pool = LogThreads(1, seconds=lambda: 0.2)
    work = Work()
    hanging = pool.submit(work)
    waiting = pool.submit(int)
    with pytest.raises(DatabaseTimeout, match=r"did not answer within 0\.2 s"):
        overdue(pool, hanging).result(0)
    assert waiting.result(30) == 0, "by another thread"
    work.release.set()
    wait_until(all_gone(work.threads), "the end of the thread that was given up")
    assert work.threads.isdisjoint({pool.submit(threading.current_thread).result(30)})


def overdue(pool: LogThreads, job: Future[None]) -> Future[None]:
    def look() -> bool:
        pool.abandon_overdue()
        return job.done()

    wait_until(look, "the job's failure")
    return job


async def test_job_that_hangs_fails_without_another_job(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = LogThreads(1, seconds=lambda: 0.2)
    work = Work()
    async with asyncio.timeout(30):
        with pytest.raises(DatabaseTimeout):
            await pool.begin(work)
        assert await pool.begin(int) == 0
        with pytest.raises(DatabaseTimeout):
            await pool.begin(work, 0.1)
    work.release.set()


def test_result_that_comes_too_late_is_dropped() -> None:
    pool = LogThreads(1, seconds=lambda: 0.2)
    work = Work()
    hanging = pool.submit(work)
    error = overdue(pool, hanging).exception(0)
    work.release.set()
    wait_until(all_gone(work.threads), "the end of the thread")
    assert hanging.exception(0) is error


def test_threads_that_hang_are_bounded() -> None:
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
    assert pool.submit(int).result(30) == 0, "and it works again"


def test_sqlite_has_no_deadline(settings: Any) -> None:
    """A file does not fall silent, and a writer can wait for the database's one lock for as long as the site likes."""
    is_file = connection.vendor == "sqlite"
    assert executor.timeout_seconds() == (None if is_file else 15)
    settings.STREAMS = {**settings.STREAMS, "DATABASE_TIMEOUT_SECONDS": None}
    assert executor.timeout_seconds() is None


def test_surplus_threads_end_while_others_work(pool: LogThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    """The idle thread that worked last is woken first. In turn, each of them would work now and then, and none end."""
    monkeypatch.setattr(test_run, "LINGER_SECONDS", 1.0)
    work = Work()
    futures = [pool.submit(work) for _ in range(4)]
    wait_until(lambda: work.running == 4, "four jobs at once")
    work.release.set()
    wait(futures, timeout=30)

    def only_one_is_left() -> bool:
        pool.submit(int).result(30)
        time.sleep(0.1)
        return sum(thread.is_alive() for thread in work.threads) <= 1

    wait_until(only_one_is_left, "the end of the others")
