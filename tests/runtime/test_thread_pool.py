"""LogThreads: the number of its threads, their end, and the results of jobs."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import Future, wait
from typing import Any

import pytest

from streams.runtime import test_run
from streams.runtime.executor import LogThreads
from tests.runtime.support import Work, all_gone, set_threads
from tests.support.services import wait_until

# --- Threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 4])
def test_database_threads_limits_the_jobs(pool: LogThreads, settings: Any, number: int) -> None:
    set_threads(settings, number)
    work = Work()
    futures = [pool.submit(work) for _ in range(20)]
    wait_until(lambda: work.running == number, f"{number} jobs at once")
    time.sleep(0.1)
    assert work.running == number
    work.release.set()
    wait(futures, timeout=30)
    assert (work.max_running, len(work.threads)) == (number, number)
    wait_until(all_gone(work.threads), "the end of the threads")


@pytest.mark.parametrize("number", [1, 2])
def test_pool_survives_a_lack_of_threads(settings: Any, number: int) -> None:
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
    assert work.max_running == number


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_consecutive_jobs_share_a_thread(pool: LogThreads) -> None:
    work = Work()
    work.release.set()
    for _ in range(20):
        pool.submit(work).result(30)
        wait_until(lambda: pool._idle, "an idle thread")  # it becomes idle shortly after its result is set
    assert len(work.threads) <= 2


def test_four_threads_by_default(pool: LogThreads) -> None:
    work = Work()
    futures = [pool.submit(work) for _ in range(10)]
    wait_until(lambda: work.running == 4, "four jobs at once")
    work.release.set()
    wait(futures, timeout=30)
    assert work.max_running == 4


def test_size_can_change_at_runtime(pool: LogThreads, settings: Any) -> None:
    set_threads(settings, 1)
    work = Work()
    futures = [pool.submit(work)]
    set_threads(settings, 3)
    futures += [pool.submit(work) for _ in range(10)]
    wait_until(lambda: work.running == 3, "three jobs at once")
    work.release.set()
    wait(futures, timeout=30)
    assert work.max_running == 3


def test_threads_do_not_keep_the_process_alive(pool: LogThreads) -> None:
    assert pool.submit(lambda: threading.current_thread().daemon).result(30)


def test_surplus_threads_end(pool: LogThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    """The idle thread that worked last gets the next job. If they took turns, none of them would end."""
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


def test_thread_without_its_job_ends(pool: LogThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    """This happens if another thread takes the job that woke it. Such a thread must still end after its timeout."""
    monkeypatch.setattr(test_run, "LINGER_SECONDS", 0.0005)
    for _ in range(6):
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            wait([pool.submit(int) for _ in range(4)])
        wait_until(lambda: not pool._threads, "the threads' end", 10)


# --- Jobs -------------------------------------------------------------------------------------------------------------


def test_job_takes_arguments_and_returns(pool: LogThreads) -> None:
    assert pool.submit(divmod, 7, 2).result(30) == (3, 1)
    assert pool.submit(int, "ff", base=16).result(30) == 255


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), StopIteration()])
def test_exception_goes_to_the_caller(pool: LogThreads, error: BaseException) -> None:
    ran_in: list[threading.Thread] = []

    def fail() -> None:
        ran_in.append(threading.current_thread())
        raise error

    future = pool.submit(fail)
    assert future.exception(30) is error
    assert pool.submit(threading.current_thread).result(30) in ran_in or not ran_in[0].is_alive()
    assert pool.submit(divmod, 7, 2).result(30) == (3, 1)


def test_cancelled_job_does_not_run(pool: LogThreads, settings: Any) -> None:
    set_threads(settings, 1)
    work = Work()
    first = pool.submit(work)
    ran: list[int] = []
    futures = [pool.submit(ran.append, number) for number in range(4)]
    assert futures[1].cancel()
    work.release.set()
    wait([first, *futures], timeout=30)
    assert ran == [0, 2, 3]


def test_jobs_start_in_order(pool: LogThreads, settings: Any) -> None:
    set_threads(settings, 1)
    ran: list[int] = []
    wait([pool.submit(ran.append, number) for number in range(200)], timeout=30)
    assert ran == list(range(200))


def test_no_job_is_lost(pool: LogThreads) -> None:
    """The pauses are about as long as a thread is idle before it ends in a test run, so that both coincide."""
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
