"""The end of a listener thread: a waiting call fails. If it waited forever, no other notice would be sent."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncGenerator

import pytest

from streams.notifiers.listener_thread import ListenerThread
from streams.notifiers.mailboxes import Mailbox

SECONDS = 20.0


async def for_ever() -> None:
    await asyncio.Event().wait()


async def receive_nothing(thread: ListenerThread) -> None:
    await for_ever()


async def test_call_fails_while_the_thread_ends() -> None:
    """An event loop that has cancelled its tasks and is not closed yet accepts callbacks that it never runs."""
    ending, called = threading.Event(), threading.Event()

    async def closes_slowly() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            ending.set()
            called.wait(SECONDS)

    left_open = closes_slowly()

    async def fail(thread: ListenerThread) -> None:
        await anext(left_open)
        raise ConnectionError("no server")

    thread = ListenerThread(fail, 0)
    waiting = thread.run(for_ever)
    assert waiting is not None
    assert thread.add_mailbox(Mailbox())
    assert await asyncio.to_thread(ending.wait, SECONDS)
    assert thread.run(for_ever) is None
    called.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.to_thread(waiting.result, SECONDS)


async def test_call_fails_if_the_thread_ends_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: ended.set())
    thread = ListenerThread(receive_nothing, 0)
    ready = threading.Event()
    thread.loop.call_soon_threadsafe(ready.wait, SECONDS)
    thread.loop.call_soon_threadsafe(sys.exit)
    future = thread.run(for_ever)
    assert future is not None
    ready.set()
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(future.result, SECONDS)
    assert thread.run(for_ever) is None
    assert await asyncio.to_thread(ended.wait, SECONDS)
    del future, thread
    gc.collect()  # asyncio then reports the task that never ran during this test, and not during another
