"""Readings of the database are shared, and wait for a moment only."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from streams.runtime import executor, readings, test_run
from streams.runtime.readings import Reading

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as on a site, in a log thread and with a cache. The readings of these tests need no database."""
    monkeypatch.setattr(readings, "_registered", {})
    monkeypatch.setattr(readings, "_reader", readings._Reader())
    monkeypatch.setattr(test_run, "strategy", lambda: test_run._SITE)


def test_callers_share_a_reading() -> None:
    threads: list[str] = []

    def read() -> Any:
        threads.append(threading.current_thread().name)
        return {"": 1}

    readings.register(Reading("calls", "Counts.", read))
    assert [readings.read() for _ in range(5)] == [{"calls": {"": 1}}] * 5
    assert threads == ["streams-log"], "one call, in a thread for the log"


def test_reading_is_repeated_when_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "CACHE_SECONDS", 0.0)
    numbers = iter(range(9))
    readings.register(Reading("number", "Counts.", lambda: {"": next(numbers)}))
    assert [readings.read() for _ in range(2)] == [{"number": {"": 0}}, {"number": {"": 1}}]


def test_slow_database_delays_a_caller_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one thread waits for the database, however often it is asked."""
    monkeypatch.setattr(readings, "READING_SECONDS", 0.05)
    answers = threading.Event()
    calls: list[int] = []

    def read() -> Any:
        calls.append(1)
        answers.wait(30)
        return {"": 7}

    readings.register(Reading("slow", "Is slow.", read))
    try:
        assert [readings.read() for _ in range(3)] == [None] * 3
        assert len(calls) == 1
    finally:
        answers.set()
    end = time.monotonic() + 20
    while (found := readings.read()) is None:
        assert time.monotonic() < end
    assert found == {"slow": {"": 7}}


def test_silent_database_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that waits for it is abandoned after the pool's limit, and a later reading gets another one."""
    monkeypatch.setattr(readings, "READING_SECONDS", 0.05)
    monkeypatch.setattr(readings, "CACHE_SECONDS", 0.0)
    monkeypatch.setattr(executor.PERIODIC, "_seconds", lambda: 0.1)
    answers = threading.Event()
    names: list[str] = []

    def read() -> Any:
        names.append(threading.current_thread().name)
        if len(names) == 1:
            answers.wait(30)
        return {"": 7}

    readings.register(Reading("silent", "Is silent.", read))
    end = time.monotonic() + 20
    try:
        while readings.read() is None:
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        answers.set()
    assert len(names) == 2


def test_failure_is_no_reading(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Any:
        raise LookupError("a bug")

    readings.register(Reading("fails", "Fails.", fail))
    assert readings.read() is None
    assert "could not be read" in caplog.text
