"""The shutdown of a process, without a server. See tests/system/servers/test_shutdown.py for servers."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from streams.http import shutdown


async def test_hook_that_fails_is_logged_and_keeps_neither_the_others_nor_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    def fails() -> None:
        raise OSError("no disk")

    monkeypatch.setattr(shutdown, "_hooks", [])
    shutdown.register(fails)
    for _ in range(2):
        shutdown.register(done.clear)
        shutdown.register(lambda: done.append("hook"))
    ended = asyncio.Event()
    shutdown._Process().begin(ended.set)
    await asyncio.wait_for(ended.wait(), 30)
    assert done == ["hook", "hook"], "a hook that is registered twice is done once, and first"
    [record] = [record for record in caplog.records if record.name == "streams"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], OSError)


async def test_hanging_hook_delays_shutdown_by_the_grace_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutdown, "_hooks", [lambda: time.sleep(20)])
    ended = asyncio.Event()
    shutdown._Process().begin(ended.set)
    await asyncio.wait_for(ended.wait(), 15)
    assert "did not finish within 1.0 s" in caplog.text


def test_reconnect_hint_has_jitter(settings: Any) -> None:
    settings.STREAMS = {**settings.STREAMS, "RETRY_MILLISECONDS": 2000}
    lines = {shutdown.reconnect_hint() for _ in range(200)}
    assert len(lines) > 50
    for line in lines:
        assert line.startswith(b"retry: ")
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert 1000 <= int(line[7:]) <= 3000
