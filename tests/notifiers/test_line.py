"""A line's end. What was to be sent by it must not wait for ever: no other notice would go out from then on."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncGenerator

import pytest

from streams.notifiers.line import Line
from streams.notifiers.mailboxes import Mailbox

SECONDS = 20.0


async def for_ever() -> None:
    await asyncio.Event().wait()


async def hear_nothing(line: Line) -> None:
    await for_ever()


async def test_call_on_a_line_that_is_just_ending_fails() -> None:
    """After the loop has cancelled its tasks, and before it is closed, it takes callbacks that it never comes to."""
    ending, called = threading.Event(), threading.Event()

    async def closes_slowly() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            ending.set()
            called.wait(SECONDS)

    left_open = closes_slowly()

    async def fail(line: Line) -> None:
        await anext(left_open)
        raise ConnectionError("no server")

    line = Line(fail, 0)
    assert line.hold()
    assert line.join(Mailbox())
    assert await asyncio.to_thread(ending.wait, SECONDS)
    future = line.call(for_ever())
    called.set()
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(future.result, SECONDS)
    assert not line.hold()


async def test_call_fails_where_the_thread_ends_before_it_comes_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: ended.set())
    line = Line(hear_nothing, 0)
    assert line.hold()
    ready = threading.Event()
    line.loop.call_soon_threadsafe(ready.wait, SECONDS)
    line.loop.call_soon_threadsafe(sys.exit)
    future = line.call(for_ever())
    ready.set()
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(future.result, SECONDS)
    assert not line.hold()
    assert await asyncio.to_thread(ended.wait, SECONDS)
    del future, line
    gc.collect()  # asyncio complains of the task that nobody comes to, in this test and not in another
